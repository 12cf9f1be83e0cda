"""The plots of the documentation, from a file of results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt

from .report import DOCS, rows_of

COLOURS = {
    "cylstm-cython": "#c2410c",
    "onnxruntime": "#2563eb",
    "torch-onednn": "#4b5563",
    "torch-native": "#9ca3af",
}
LABELS = {
    "cylstm-cython": "cylstm",
    "onnxruntime": "ONNX Runtime",
    "torch-onednn": "PyTorch, oneDNN",
    "torch-native": "PyTorch, native",
}
#: The tasks of the front page, by case.
FRONT = {
    "step-h64": "one step,\nH = 64",
    "long-h256": "one sequence,\nT = 100,\nH = 256",
    "b8-t100-h256": "batch of 8,\nT = 100,\nH = 256",
    "b64-t100-i128-h256": "batch of 64,\nT = 100,\nH = 256",
    "ragged-b64-bidirectional-h128": "ragged batch,\nboth directions,\nH = 128",
    "train-b64-t50-h512": "training,\nbatch of 64,\nH = 512",
}
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "cylstm",  # the same results draw the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}


def draw(data: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Write the SVG files that docs/benchmarks.md shows."""
    folder = docs / "_static"
    folder.mkdir(exist_ok=True)
    costs = data["costs"]
    with plt.rc_context(STYLE):
        figures = {"front": _front(data), "ratios": _ratios(data), "roofline": _roofline(data)}
        if costs.get("scaling"):
            figures["scaling"] = _scaling(costs["scaling"])
        if costs.get("memory"):
            figures["memory"] = _memory(costs["memory"])
        for name, figure in figures.items():
            figure.savefig(folder / f"benchmarks-{name}.svg", bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)


def _front(data: Mapping[str, Any]) -> plt.Figure:
    """Six tasks for the front page: bars of the times over that of cylstm."""
    rows = {row.case: row for row in rows_of(data)}
    figure, axes = plt.subplots(figsize=(7, 2.9))
    peers = {"PyTorch": ("torch-onednn", "torch-native"), "ONNX Runtime": ("onnxruntime",)}
    bars = {"cylstm": "#c2410c", "PyTorch": "#9ca3af", "ONNX Runtime": "#2563eb"}
    for place, (label, colour) in enumerate(bars.items()):
        for n, case in enumerate(FRONT):
            row = rows[case]
            times = [row.seconds[name] for name in peers.get(label, ()) if name in row.seconds]
            ratio = 1.0 if label == "cylstm" else min(times, default=0.0) / row.ours
            if ratio:
                axes.bar(n + 0.27 * (place - 1), ratio, 0.25, color=colour, label=label if n == 0 else None)
                axes.annotate(f"{ratio:.1f}", (n + 0.27 * (place - 1), ratio), ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(FRONT)), FRONT.values(), fontsize=7.5)
    axes.grid(axis="x", visible=False)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_ylim(0.8, 25)
    axes.set_ylabel("time over that of cylstm")
    axes.legend(loc="upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def _ratios(data: Mapping[str, Any]) -> plt.Figure:
    """A dot per case and peer: how many times longer the peer takes."""
    rows = rows_of(data)[::-1]
    figure, axes = plt.subplots(figsize=(7, 0.19 * len(rows) + 0.8))
    for name, colour in COLOURS.items():
        if name == "cylstm-cython":
            continue
        points = [(row.seconds[name] / row.ours, i) for i, row in enumerate(rows) if name in row.seconds]
        if points:
            axes.scatter(*zip(*points, strict=True), s=22, color=colour, label=LABELS[name], zorder=3)
    axes.axvline(1, color=COLOURS["cylstm-cython"], label=LABELS["cylstm-cython"], linewidth=1.5)
    axes.set_yticks(range(len(rows)), [row.case for row in rows], fontsize=7)
    for i, (row, below) in enumerate(zip(rows[1:], rows, strict=False)):
        if row.regime != below.regime:
            axes.axhline(i + 0.5, color="#9ca3af", linewidth=0.6)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("time over that of cylstm (logarithmic): right of the line the peer is slower")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=4, frameon=False, fontsize=8)
    return figure


def _roofline(data: Mapping[str, Any]) -> plt.Figure:
    """Share of the limit, a bar per case."""
    rows = rows_of(data)[::-1]
    figure, axes = plt.subplots(figsize=(7, 0.17 * len(rows) + 0.8))
    axes.barh(range(len(rows)), [100 * row.share for row in rows], color=COLOURS["cylstm-cython"], height=0.7)
    axes.axvline(100, color="#4b5563", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.case for row in rows], fontsize=7)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("speed in % of the limit that this machine sets")
    return figure


def _scaling(scaling: dict[str, Any]) -> plt.Figure:
    titles = {"B": "batch, T=50 H=128", "T": "steps, B=1 H=128", "H": "hidden size, B=1 T=100"}
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    for axes, (axis, lines) in zip(panels, scaling.items(), strict=True):
        for name, points in lines.items():
            sizes, seconds = zip(*points, strict=True)
            axes.loglog(sizes, [1e6 * s for s in seconds], ".-", color=COLOURS[name], label=LABELS[name], linewidth=1.2)
        axes.set_xlabel(f"{axis} ({titles[axis]})")
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("µs per step and sequence")
    panels[0].legend(frameon=False, fontsize=7)
    return figure


def _memory(memory: dict[str, Any]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(4.5, 2.8), layout="constrained")
    for name, points in memory.items():
        steps, sizes = zip(*points, strict=True)
        axes.plot(steps, [s / 1e6 for s in sizes], ".-", color=COLOURS[name], label=LABELS[name], linewidth=1.2)
    axes.set_xlabel("steps T (B=1, H=256)")
    axes.set_ylabel("MB beside input and output")
    axes.legend(frameon=False, fontsize=8)
    return figure
