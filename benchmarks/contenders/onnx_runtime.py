"""ONNX Runtime."""

from __future__ import annotations

import numpy as np
from cases import Case, Problem

from .base import Contender, Runner, Values


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
        model = self.model(case, problem)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feed = {"input": problem.input}
        if case.shortest:
            feed["lengths"] = case.lengths.astype(np.int32)
        names = ["output", "h_n", "c_n"]  # naming them spares the session a list

        def values(result: list[np.ndarray]) -> Values:
            output, h_n, c_n = result
            return {"output": output.reshape(case.T, case.B, -1), "h_n": h_n, "c_n": c_n}

        return Runner(lambda: session.run(names, feed), values)

    def model(self, case: Case, problem: Problem) -> bytes:
        """The case as it is run."""
        return onnx_model(case, problem.parameters)


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
