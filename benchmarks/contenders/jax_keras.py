"""JAX and Keras: they take part where they are installed."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec

import numpy as np
from cases import Case, Problem

from .base import Contender, Runner


class Jax(Contender):
    """JAX: ``lax.scan`` over time with the input's product before it, compiled."""

    name = "jax"
    needs = ("jax",)

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
    needs = ("keras",)

    @property
    def missing(self) -> str:
        backends = "tensorflow", "jax", "torch"
        return super().missing or ("" if any(map(find_spec, backends)) else " or ".join(backends))

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
