"""Public names and signatures change on purpose alone: CONTRIBUTING, Compatibility."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    pytest.importorskip("onnx")
    spec = importlib.util.spec_from_file_location("public_api", ROOT / "tools" / "public_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.lines())


def test_names_and_signatures_are_those_that_were_published(lines: list[str]) -> None:
    kept = (ROOT / "tests" / "package" / "public_api.txt").read_text("utf-8").splitlines()
    gone, new = sorted(set(kept) - set(lines)), sorted(set(lines) - set(kept))
    assert (gone, new) == ([], []), (
        "meant? python tools/public_api.py > tests/package/public_api.txt, and the changelog"
    )


def test_the_list_is_one(lines: list[str]) -> None:
    assert len(lines) == len(set(lines)) > 150
    assert any(line.startswith("cylstm.LSTM(input_size, hidden_size, num_layers=1") for line in lines)
    assert "cylstm.LSTM.vjp(self, input, hx=None, *, recompute=False)" in lines
    assert sys.modules["cylstm"].__all__
