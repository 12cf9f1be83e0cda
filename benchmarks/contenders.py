"""The contenders: cylstm's backends and their peers, each at its best and with the same number of threads.

A contender prepares a case outside of the measurement: weights are loaded, packed or compiled, the input lies in the
contender's own kind of array. What is measured is the call alone.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from cases import Case, Problem
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import cylstm
from cylstm.backends import registry

Values = dict[str, np.ndarray]  # output (T, B, D R), h_n, c_n; in training the gradients instead, under PyTorch's names


@dataclass
class Runner:
    """One contender, ready for one case."""

    call: Callable[[], Any]
    values: Callable[[Any], Values]  # what a call has returned, as NumPy arrays
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext  # around a block of calls


class Contender:
    """Base class. A contender is made without side effects; `prepare` may load what it needs."""

    name = ""
    needs = ""  # the package that has to be installed
    peer = True
    skips_zeros = False  # a single step without a given state leaves out the state's share

    @property
    def installed(self) -> bool:
        return not self.needs or find_spec(self.needs) is not None

    def supports(self, case: Case) -> bool:
        return True

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        raise NotImplementedError

    def instruction_set(self) -> str:
        return ""  # it does not tell


class CyLSTM(Contender):
    """A backend of cylstm, by a call of the module; in training by ``vjp`` and the pullback."""

    peer = False

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.name = f"cylstm-{backend}"
        self.skips_zeros = backend == "cython"

    def supports(self, case: Case) -> bool:
        try:
            registry.choose(
                self.backend, dtype=case.dtype, projection=case.proj_size > 0, training=case.training, device="cpu"
            )
        except cylstm.UnsupportedError:
            return False
        return True

    def instruction_set(self) -> str:
        return getattr(registry.choose(self.backend, dtype="float32"), "instruction_set", "")

    def module(self, case: Case, problem: Problem, threads: int) -> cylstm.LSTM:
        cylstm.set_num_threads(threads)
        lstm = cylstm.LSTM(
            case.input_size, case.H, case.layers, bidirectional=case.bidirectional, proj_size=case.proj_size,
            dtype=case.dtype, backend=self.backend,
        )  # fmt: skip
        lstm.load_state_dict(problem.parameters)
        return lstm

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        lstm = self.module(case, problem, threads)
        input, grad_output = problem.input, problem.grad_output
        if case.shortest:
            input = cylstm.pack_padded_sequence(input, case.lengths, enforce_sorted=False)
            if grad_output is not None:
                grad_output = cylstm.pack_padded_sequence(grad_output, case.lengths, enforce_sorted=False)
        if case.training:
            return Runner(lambda: lstm.vjp(input)[2](grad_output), self._gradients)
        return Runner(lambda: lstm(input), self._output)

    @staticmethod
    def _output(result: Any) -> Values:
        output, (h_n, c_n) = result
        return {"output": _padded(output), "h_n": h_n, "c_n": c_n}

    @staticmethod
    def _gradients(grads: Any) -> Values:
        return {"input": _padded(grads.input), **grads.parameters}


class CyLSTMStream(CyLSTM):
    """The same backend by ``stream``: for cases of one step."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend)
        self.name += "-stream"
        self.skips_zeros = False

    def supports(self, case: Case) -> bool:
        return super().supports(case) and case.T == 1 and not case.bidirectional and not case.training

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        stream = self.module(case, problem, threads).stream(case.B)
        x_t = problem.input[0]

        def values(output: np.ndarray) -> Values:
            stream.reset()
            output = stream(x_t)
            h, c = stream.state
            return {"output": output[None], "h_n": h, "c_n": c}

        return Runner(lambda: stream(x_t), values)


class Torch(Contender):
    """``torch.nn.LSTM``: in inference mode; in training by forward and ``torch.autograd.grad``."""

    def __init__(self, onednn: bool) -> None:
        self.onednn = onednn
        self.name = "torch-onednn" if onednn else "torch-native"

    def instruction_set(self) -> str:
        return torch.backends.cpu.get_cpu_capability().lower()

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        torch.set_num_threads(threads)
        lstm = torch.nn.LSTM(
            case.input_size, case.H, case.layers, bidirectional=case.bidirectional, proj_size=case.proj_size,
            dtype=getattr(torch, case.dtype),
        )  # fmt: skip
        lstm.load_state_dict({name: torch.from_numpy(array) for name, array in problem.parameters.items()})
        input = torch.from_numpy(problem.input.copy())
        lengths = torch.from_numpy(case.lengths)
        pack = (lambda x: pack_padded_sequence(x, lengths, enforce_sorted=False)) if case.shortest else lambda x: x

        @contextlib.contextmanager
        def context():
            mode = contextlib.nullcontext() if case.training else torch.inference_mode()
            tf32 = torch.backends.mkldnn.allow_tf32  # as it is
            with mode, torch.backends.mkldnn.flags(enabled=self.onednn, allow_tf32=tf32), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
                yield

        if not case.training:
            packed = pack(input)
            return Runner(lambda: lstm(packed), self._output, context)

        packed = pack(input)
        leaf = packed.data.requires_grad_() if case.shortest else packed.requires_grad_()
        grad_output = pack(torch.from_numpy(problem.grad_output))
        grad_output = grad_output.data if case.shortest else grad_output
        names, parameters = zip(*lstm.named_parameters(), strict=True)

        def step():
            output, _ = lstm(packed)
            output = output.data if case.shortest else output
            return torch.autograd.grad(output, (leaf, *parameters), grad_output)

        def gradients(grads: Any) -> Values:
            grad_input = packed._replace(data=grads[0]) if case.shortest else grads[0]
            return {"input": _padded(grad_input), **dict(zip(names, map(_numpy, grads[1:]), strict=True))}

        return Runner(step, gradients, context)

    @staticmethod
    def _output(result: Any) -> Values:
        output, (h_n, c_n) = result
        return {"output": _padded(output), "h_n": _numpy(h_n), "c_n": _numpy(c_n)}


def reference(case: Case, problem: Problem, threads: int) -> Values:
    """The values in float64, by PyTorch without oneDNN."""

    def double(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array.astype(np.float64)

    wide = Problem(
        {name: double(array) for name, array in problem.parameters.items()},
        double(problem.input),
        double(problem.grad_output),
    )
    runner = Torch(onednn=False).prepare(replace(case, dtype="float64"), wide, threads)
    with runner.context():
        return runner.values(runner.call())


class OnnxRuntime(Contender):
    """ONNX Runtime with all its optimisations, on a model of LSTM nodes that answers in PyTorch's shapes."""

    name = "onnxruntime"
    needs = "onnxruntime"

    def supports(self, case: Case) -> bool:
        # The operator has no projection; float64 is refused by the CPU provider; there is no gradient.
        return case.dtype == "float32" and not case.proj_size and not case.training

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            onnx_model(case, problem.parameters), options, providers=["CPUExecutionProvider"]
        )
        feed = {"input": problem.input}
        if case.shortest:
            feed["lengths"] = case.lengths.astype(np.int32)
        names = ["output", "h_n", "c_n"]  # naming them spares the session a list

        def values(result: list[np.ndarray]) -> Values:
            output, h_n, c_n = result
            return {"output": output.reshape(case.T, case.B, -1), "h_n": h_n, "c_n": c_n}

        return Runner(lambda: session.run(names, feed), values)


def onnx_model(case: Case, parameters: dict[str, np.ndarray]) -> bytes:
    """The case as an ONNX model: LSTM nodes, and what turns Y (T, D, B, H) into (T, B, D H) where that takes work."""
    from onnx import TensorProto, helper, numpy_helper

    D, x = case.directions, "input"
    nodes, constants = [], {"rows": np.array([0, 0, -1])} if D == 2 else {"axis_1": np.array([1])}
    if D == 1 and case.layers == 1:
        constants = {}
    for layer in range(case.layers):
        suffixes = (f"_l{layer}", f"_l{layer}_reverse")[:D]
        stacks = {
            "W": [_onnx_gates(parameters["weight_ih" + s]) for s in suffixes],
            "R": [_onnx_gates(parameters["weight_hh" + s]) for s in suffixes],
            "B": [np.concatenate([_onnx_gates(parameters[b + s]) for b in ("bias_ih", "bias_hh")]) for s in suffixes],
        }
        constants |= {f"{name}{layer}": np.stack(arrays) for name, arrays in stacks.items()}
        inputs = [x, f"W{layer}", f"R{layer}", f"B{layer}", "lengths" if case.shortest else ""]
        outputs = [f"Y{layer}", f"h{layer}", f"c{layer}"]
        nodes.append(
            helper.make_node(
                "LSTM", inputs, outputs, hidden_size=case.H, direction="bidirectional" if D == 2 else "forward"
            )
        )
        x = "output" if layer == case.layers - 1 else f"output{layer}"
        if D == 1 and case.layers == 1:  # the node alone
            nodes[-1].output[:] = ["output", "h_n", "c_n"]
        elif D == 1:
            nodes.append(helper.make_node("Squeeze", [f"Y{layer}", "axis_1"], [x]))
        else:
            nodes.append(helper.make_node("Transpose", [f"Y{layer}"], [f"Z{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"Z{layer}", "rows"], [x]))
    if "h_n" not in nodes[-1].output:
        nodes += [
            helper.make_node("Concat", [f"{state}{i}" for i in range(case.layers)], [f"{state}_n"], axis=0)
            for state in "hc"
        ]
    graph_inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [case.T, case.B, case.input_size])]
    if case.shortest:
        graph_inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [case.B]))
    shapes = {"output": [case.T, case.B, D * case.H], "h_n": [D * case.layers, case.B, case.H]}
    shapes["c_n"] = shapes["h_n"]
    if len(nodes) == 1:
        shapes["output"].insert(1, 1)  # D
    graph = helper.make_graph(
        nodes,
        "lstm",
        graph_inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString()


def _onnx_gates(weight: np.ndarray) -> np.ndarray:
    """From PyTorch's order of the gates, i f g o, to ONNX's, i o f c."""
    i, f, g, o = np.split(weight, 4)
    return np.concatenate([i, o, f, g])


class Jax(Contender):
    """JAX: ``lax.scan`` over time with the input's product before it, compiled."""

    name = "jax"
    needs = "jax"

    def supports(self, case: Case) -> bool:
        return case.dtype == "float32" and not case.shortest and not case.proj_size

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        os.environ.setdefault("NPROC", str(threads))  # the size of XLA's pool, read when JAX starts
        import jax
        import jax.numpy as jnp

        def direction(parameters, suffix, x, reverse):
            bias = parameters["bias_ih" + suffix] + parameters["bias_hh" + suffix]
            from_input = x @ parameters["weight_ih" + suffix].T + bias
            weight_hh = parameters["weight_hh" + suffix].T

            def step(state, row):
                h, c = state
                i, f, g, o = jnp.split(row + h @ weight_hh, 4, axis=-1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zeros = jnp.zeros((case.B, case.H))
            return jax.lax.scan(step, (zeros, zeros), from_input, reverse=reverse)

        def lstm(parameters, x):
            h_n, c_n = [], []
            for layer in range(case.layers):
                outputs = []
                for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: case.directions]:
                    (h, c), output = direction(parameters, suffix, x, suffix.endswith("reverse"))
                    h_n.append(h)
                    c_n.append(c)
                    outputs.append(output)
                x = jnp.concatenate(outputs, axis=-1)
            return x, jnp.stack(h_n), jnp.stack(c_n)

        device = jax.local_devices(backend="cpu")[0]
        parameters = jax.device_put(problem.parameters, device)
        x = jax.device_put(problem.input, device)
        if not case.training:
            run = jax.jit(lstm)
            return Runner(
                lambda: jax.block_until_ready(run(parameters, x)),
                lambda result: dict(zip(("output", "h_n", "c_n"), map(np.asarray, result), strict=True)),
            )
        grad_output = jax.device_put(problem.grad_output, device)

        @jax.jit
        def gradients(parameters, x, grad_output):
            return jax.vjp(lambda p, x: lstm(p, x)[0], parameters, x)[1](grad_output)

        return Runner(
            lambda: jax.block_until_ready(gradients(parameters, x, grad_output)),
            lambda grads: {"input": np.asarray(grads[1]), **{k: np.asarray(v) for k, v in grads[0].items()}},
        )


class Keras(Contender):
    """``keras.layers.LSTM`` on whichever of its backends is installed, by ``predict_on_batch``."""

    name = "keras"
    needs = "keras"

    def supports(self, case: Case) -> bool:
        # 50,000 steps on its PyTorch backend, a Python loop, take minutes.
        return (
            case.dtype == "float32"
            and not case.shortest
            and not case.proj_size
            and not case.training
            and case.T <= 1000
        )

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        if "KERAS_BACKEND" not in os.environ:
            os.environ["KERAS_BACKEND"] = next(name for name in ("tensorflow", "jax", "torch") if find_spec(name))
        if os.environ["KERAS_BACKEND"] == "tensorflow":
            import tensorflow

            with contextlib.suppress(RuntimeError):  # it has started already, with the same setting
                tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        import keras

        layers = []
        for _ in range(case.layers):
            layer = keras.layers.LSTM(case.H, return_sequences=True)
            layers.append(keras.layers.Bidirectional(layer) if case.bidirectional else layer)
        model = keras.Sequential([keras.Input((case.T, case.input_size), batch_size=case.B), *layers])
        weights = []
        for layer in range(case.layers):
            for s in (f"_l{layer}", f"_l{layer}_reverse")[: case.directions]:
                p = problem.parameters
                weights += [p["weight_ih" + s].T, p["weight_hh" + s].T, p["bias_ih" + s] + p["bias_hh" + s]]
        model.set_weights(weights)
        x = np.ascontiguousarray(problem.input.swapaxes(0, 1))
        return Runner(lambda: model.predict_on_batch(x), lambda result: {"output": np.asarray(result).swapaxes(0, 1)})


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _padded(output: Any) -> np.ndarray:
    """The output as (T, B, features), whatever it is."""
    if isinstance(output, cylstm.PackedSequence):
        return cylstm.pad_packed_sequence(output)[0]
    if isinstance(output, torch.nn.utils.rnn.PackedSequence):
        return _numpy(pad_packed_sequence(output)[0])
    return output if isinstance(output, np.ndarray) else _numpy(output)


def ours() -> list[Contender]:
    """Every backend of cylstm that is available here, by call and by stream."""
    names = [info.name for info in cylstm.available_backends() if info.status == "available"]
    return [kind(name) for name in names for kind in (CyLSTM, CyLSTMStream)]


CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in [*ours(), Torch(onednn=True), Torch(onednn=False), OnnxRuntime(), Jax(), Keras()]
}
