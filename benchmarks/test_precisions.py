"""The benchmark of the precisions: its contenders' values on short cases, its table and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import precisions
import pytest
from cases import Case
from contenders.reduced import OurCall, reduced

SHORT = Case(name="(2, 6, 8, 16)", regime="precisions", B=2, T=6, I=8, H=16)


def data() -> dict[str, Any]:
    errors = {"float32": 3e-7, "bfloat16": 2e-3, "int8": 4e-3}
    rows = [
        {
            "case": case.name,
            "contender": one.name,
            "precision": one.precision,
            "error": errors[one.precision],
            "median": t,
        }
        for case in precisions.CASES[:2]
        for t, one in enumerate((c for c in reduced() if hasattr(c, "precision")), start=1)
    ]
    rows += [
        {"case": case.name, "contender": "torch-onednn", "precision": "float32", "error": 3e-7, "median": 4.0}
        for case in precisions.CASES[:2]
    ]
    machine = {"processor": "a processor", "environment": {}}
    return {"rows": rows, "threads": 2, "date": "2026-01-01T00:00:00", "machine": machine}


def test_every_contender_is_right() -> None:
    names = {one.name for one in reduced()}
    assert len(names) == len(reduced())
    rows = precisions.measure_case(SHORT, 1, budget=0, rounds=1)
    assert not [row for row in rows if "wrong" in row]
    assert {"torch-bfloat16", "torch-int8", "onnxruntime-int8", "cylstm-float32"} <= {row["contender"] for row in rows}
    for row in rows:
        assert (row["error"] > 1e-5) == (row["precision"] != "float32")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_ours_computes_in_the_precision(precision: str) -> None:
    from cases import make_problem

    contender = OurCall(precision, backend="numpy")
    assert contender.name == f"cylstm-{precision}"
    assert contender.supports(SHORT)
    assert contender.module(SHORT, make_problem(SHORT), 1).precision == precision


def test_table_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "TABLE", tmp_path / "table.inc")
    monkeypatch.setattr(precisions, "PICTURE", tmp_path / "picture.svg")
    precisions.write_docs(data())
    text = (tmp_path / "table.inc").read_text("utf-8")
    assert "| (1, 1, 512, 512) | 1e+03 ms / 3e-07 |" in text
    assert "Fastest peer over cylstm, int8: geometric mean 1.60, least 1.60" in text
    assert (tmp_path / "picture.svg").stat().st_size > 1000


def test_the_ratio_is_over_the_fastest_peer() -> None:
    assert precisions.ratios(data(), "bfloat16") == {case.name: 7 / 3 for case in precisions.CASES[:2]}
