"""Each row of the table of PyTorch's tools in the documentation has its tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "training-in-pytorch.md"

#: The first word of a row: the tests, without ``test_``.
TESTS = {
    "torch.func": "transforms gradients_are_those_of_pytorch, tools functional_call",
    "torch.vmap": "transforms vmap_over_inputs_and_states, transforms gradients_of_each_sample",
    "is_grads_batched": "transforms batched_gradients, transforms jacobian_vectorized",
    "jvp": "transforms second_derivatives_and_forward_mode_are_refused, autograd forward_mode_is_refused",
    "torch.func.functionalize": "transforms functionalize",
    "call_for_per_sample_grads": "transforms expanded_weights_are_refused",
    "torch.utils.checkpoint": "kept saved_tensors_may_be_others, tools checkpoints",
    "hooks": "tools hooks_of_modules",
    "parametrizations": "tools parametrizations, tools weight_norm_by_hooks, tools spectral_norm_and_prune_by_hooks",
    "deepcopy": "tools copies_and_files, graphs skip_init",
    "torch.__future__.set_swap_module_params_on_conversion": "graphs conversion_that_swaps_the_tensors",
    "torch.compile": "tools compile, tools compile_a_loop_over_a_cell, transforms transforms_are_compiled",
    "torch.export": "graphs export_keeps_the_operator, graphs aot_inductor_package",
    "torch.jit.trace": "graphs trace_with_gradients_and_without, graphs trace_of_a_ragged_batch",
    "torch.jit.script": "graphs script_says_restore",
    "torch.fx.symbolic_trace": "graphs symbolic_trace_keeps_the_modules_whole",
    "torch.onnx.export": "graphs export_to_onnx_is_that_of_pytorch, graphs export_of_a_drop_in_alone",
    "quantize_dynamic": "graphs dynamic_quantisation_says_restore, graphs quantisation_of_a_graph_says_restore",
    "autocast": "tools autocast_leaves_it_in_the_dtype_of_its_parameters",
    "float16": "drop_in dtypes_of_the_numpy_backend",
    "bfloat16": "refusals dtypes_that_numpy_lacks_are_refused, refusals tensors_that_are_not_dense_are_refused",
    "DataParallel": "tools data_parallel, tools distributed_data_parallel",
}


def rows() -> list[str]:
    table = PAGE.read_text().partition("## PyTorch's tools")[2]
    return [line.removeprefix("| ").replace("`", "") for line in table.splitlines() if line.startswith("| ")][1:]


def test_each_row_is_named():
    assert [re.split(r"[,: ]", row)[0] for row in rows()] == list(TESTS)


@pytest.mark.parametrize("tests", TESTS.values())
def test_each_row_is_tested(tests):
    for test in tests.split(", "):
        file, name = test.split()
        assert f"def test_{name}(" in (HERE / f"test_{file}.py").read_text()
