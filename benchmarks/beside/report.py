"""The table in plain text and for the page, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .contenders import LABELS, NAMES, OURS, PEERS
from .situations import TITLES
from .summary import Cell, after_a_rest, apart, cells, mean, merged, over_one_thread, ratios

ROOT = Path(__file__).parents[2]
TABLE, PICTURE = ROOT / "docs" / "_generated" / "company.inc", ROOT / "docs" / "_static" / "company.svg"


def axes_of(data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Situations and shapes, as they were measured."""
    return list(dict.fromkeys(row["situation"] for row in data["rows"])), list(
        dict.fromkeys(row["shape"] for row in data["rows"])
    )


def text(data: Mapping[str, Any]) -> str:
    """Aligned tables of the ratios, those below 1 marked, and of what they are made of."""
    found = ratios(data)
    keys, shapes = axes_of(data)
    wide = max(map(len, keys), default=0)
    lines = ["The faster peer's time over ours; < marks what is below 1.", ""]
    lines.append(f"{'':{wide}} " + " ".join(f"{shape:>10}" for shape in [*shapes, "mean"]))
    for key in keys:
        figures = [found.get((key, shape), float("nan")) for shape in shapes] + [mean(found, key)]
        lines.append(f"{key:{wide}} " + " ".join(f"{_marked(figure):>10}" for figure in figures).rstrip())
    figures = [mean(found, shape=shape) for shape in shapes] + [mean(found)]
    lines.append(f"{'mean':{wide}} " + " ".join(f"{_marked(figure):>10}" for figure in figures).rstrip())
    lines += ["", f"By kind of situation: {_by_letter(found)}"]
    lines += [f"Of the 99th percentiles: {_by_letter(ratios(data, 'p99'))}", "", *_details(data, wide)]
    longer = over_one_thread(data)
    lines += ["", f"Calls of more than 2 ms that one thread beats by more than 5 %: {len(longer) or 'none'}."]
    lines += [f"{key:{wide}} {shape:>10} {ratio:6.2f}" for (key, shape), ratio in longer.items()]
    for shape, times in after_a_rest(data).items():
        lines.append(f"{shape} after 30 ms of rest over in a loop: {_each(times)}")
    lines += [f"WRONG {r['contender']} in {r['situation']}, {r['shape']}: {r['wrong']}" for r in wrong(data)]
    lines += [f"left out, {key}: {why}" for key, why in data["left_out"].items()]
    for key, shares in data["processors"].items():
        if shares and not key.startswith("d:") and max(shares.values()) > DISTURBED:
            words = ", ".join(f"{share:.0%} {name}" for name, share in shares.items())
            lines.append(f"processors were not ours alone in {key}: {words}")
    return "\n".join(lines)


#: Share of the processors that others use, above which figures say little.
DISTURBED = 0.03


def _each(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{LABELS[name]} {ratio:.2f}" for name, ratio in ratios.items())


def _by_letter(found: Mapping[Cell, float]) -> str:
    means = {words: mean(found, letter) for letter, words in TITLES.items()}
    return "; ".join(f"{words} {figure:.2f}" for words, figure in means.items() if figure == figure) + "."


def _details(data: Mapping[str, Any], wide: int) -> list[str]:
    """A line for each cell: times of all, 99th percentiles, errors."""
    lines = [
        f"{'median, 99th percentile of the calls (ms); error':{wide}} {'':>10} "
        + " ".join(f"{LABELS[name]:>28}" for name in NAMES)
    ]
    for (key, shape), rows in cells(data).items():
        parts = [
            f"{1e3 * rows[name]['median']:9.4g} {1e3 * rows[name]['p99']:9.4g} {rows[name]['error']:8.0e}"
            if name in rows
            else f"{'–':>28}"
            for name in NAMES
        ]
        lines.append(f"{key:{wide}} {shape:>10} " + " ".join(parts))
    return lines


def wrong(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of results that are wrong."""
    return [row for row in data["rows"] if "wrong" in row]


def _marked(ratio: float) -> str:
    return "–" if ratio != ratio else f"{'<' * (ratio < 1)}{ratio:.2f}"


# The page ------------------------------------------------------------------------------------------------------------


def write_docs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Renew table and picture of the page from one run or several."""
    draw(merged(runs), PICTURE)
    TABLE.write_text(
        "\n".join(["![Ratios by situation and shape](_static/company.svg)", "", *markdown(runs), ""]), "utf-8"
    )


def markdown(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the page includes: the ratios, who answers how often, and the cells that need a word."""
    data = merged(runs)
    found, machine = ratios(data), data["machine"]
    lines = [
        f"Measured on {machine['processor']}, {machine['cpus']} processors, {data['threads']} threads each, "
        f"{', '.join(f'{name} {version}' for name, version in machine['versions'].items() if name in PACKAGES)}, "
        f"{data['date'][:10]}, load {machine['load']:.1f} before the run, niceness {machine['niceness']}.",
        "",
        f"Geometric mean of the ratios over all cells: {mean(found):.2f}.",
        *_several(runs),
        "",
        *_by_situation(data),
    ]
    lines += [*_throughput(data), *_rested(data), *_explained(data), *_errors(data)]
    return [*lines, *(line for key, why in data["left_out"].items() for line in ("", f"Left out, {key}: {why}"))]


def _several(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be said of several runs."""
    if len(runs) == 1:
        return []
    means = ", ".join(f"{mean(ratios(data)):.2f}" for data in runs)
    return [
        f"Times are geometric means of {len(runs)} runs, which gave {means}; {apart(runs)} ratios differ by more than "
        "20 %."
    ]


def _by_situation(data: Mapping[str, Any]) -> list[str]:
    """Of each situation the mean, the least with its shape, and the mean of the 99th percentiles."""
    found, tails = ratios(data), ratios(data, "p99")
    lines = ["| situation | mean | least | mean, 99th percentiles |", "|---|--:|--:|--:|"]
    for key in axes_of(data)[0]:
        some = {shape: ratio for (situation, shape), ratio in found.items() if situation == key}
        if some:
            least = min(some, key=some.__getitem__)
            lines.append(
                f"| {key} | {_bold(mean(found, key))} | {_bold(some[least])} ({least}) | {mean(tails, key):.2f} |"
            )
    return lines


PACKAGES = ("cylstm", "torch", "onnxruntime")


def _bold(ratio: float) -> str:
    return "–" if ratio != ratio else f"**{ratio:.2f}**" if ratio < 1 else f"{ratio:.2f}"


def _throughput(data: Mapping[str, Any]) -> list[str]:
    """Calls per second of several Python threads, and the 99th percentile of a call, of the shapes with H = 256."""
    lines = []
    for (key, shape), rows in cells(data).items():
        if key.startswith("e:") and shape.endswith("256"):
            parts = [
                f"{_rate(rows[name]['median'])} / {_time(rows[name]['p99'])}" if name in rows else "–"
                for name in (OURS, *PEERS)
            ]
            lines.append(f"| {key[3:]} | {shape} | {' | '.join(parts)} |")
    if lines:
        head = ["", "Calls per second of several Python threads / 99th percentile of a call:", ""]
        names = " | ".join(LABELS[name] for name in (OURS, *PEERS))
        lines = [*head, f"| threads | shape | {names} |", "|---|---|--:|--:|--:|", *lines]
    return lines


def _rested(data: Mapping[str, Any]) -> list[str]:
    found = after_a_rest(data)
    if not found:
        return []
    names = (OURS, *PEERS)
    lines = ["", "A single step after a rest of 30 ms, its time over that in a loop:", ""]
    lines += [f"| shape | {' | '.join(LABELS[name] for name in names)} |", "|---|--:|--:|--:|"]
    return lines + [
        f"| {shape} | {' | '.join(f'{times[n]:.2f}' if n in times else '–' for n in names)} |"
        for shape, times in found.items()
    ]


def _explained(data: Mapping[str, Any]) -> list[str]:
    """The cells in which a peer is faster, or one thread would have been."""
    longer = over_one_thread(data)
    below = [cell for cell, ratio in ratios(data).items() if ratio < 1 or cell in longer]
    if not below:
        return ["", "In no cell a peer is faster, nor one thread by more than 5 % where calls take more than 2 ms."]
    lines = ["", "Cells in which a peer is faster, or one thread by more than 5 % where calls take more than 2 ms:", ""]
    names = " | ".join(LABELS[name] for name in NAMES)
    lines += [f"| situation | shape | ratio | {names} |", "|---|---|--:|" + "--:|" * len(NAMES)]
    found, of = ratios(data), cells(data)
    for cell in below:
        times = [_time(of[cell][name]["median"]) if name in of[cell] else "–" for name in NAMES]
        lines.append(f"| {cell[0]} | {cell[1]} | {_bold(found[cell])} | {' | '.join(times)} |")
    return lines


def _errors(data: Mapping[str, Any]) -> list[str]:
    largest = {
        name: max((row["error"] for row in data["rows"] if row["contender"] == name), default=float("nan"))
        for name in (OURS, *PEERS)
    }
    return ["", "Largest error against float64: " + ", ".join(f"{LABELS[n]} {e:.0e}" for n, e in largest.items()) + "."]


def _rate(seconds: float) -> str:
    """Calls per second, in three digits."""
    rounded = float(f"{1 / seconds:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} µs" if seconds < 5e-4 else f"{1e3 * seconds:.3g} ms"


def draw(data: Mapping[str, Any], path: Path) -> None:
    """A field for each situation and shape: orange where a peer is faster, violet where cylstm is."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt
    from compare.plots import STYLE

    found = ratios(data)
    keys, shapes = axes_of(data)
    field = np.array([[found.get((key, shape), np.nan) for shape in shapes] for key in keys])
    with plt.rc_context({**STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure, axes = plt.subplots(figsize=(1.8 + 0.52 * len(shapes), 0.8 + 0.24 * len(keys)))
        axes.imshow(np.log2(field), cmap=COLOURS, vmin=-EXTREME, vmax=EXTREME, aspect="auto")
        for (row, column), ratio in np.ndenumerate(field):
            ink = "white" if abs(np.log2(ratio)) > 0.6 * EXTREME else "black"
            if ratio == ratio:
                weight = "bold" if ratio < 1 else "normal"
                axes.text(column, row, f"{ratio:.2f}", ha="center", va="center", fontsize=7, color=ink, weight=weight)
        for row, (key, following) in enumerate(pairwise(keys)):
            if key[0] != following[0]:
                axes.axhline(row + 0.5, color="black", linewidth=0.8)
        axes.set_xticks(range(len(shapes)), shapes, rotation=45, ha="left", fontsize=7.5)
        axes.set_yticks(range(len(keys)), keys, fontsize=7.5)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_xlabel(
            "time of the faster peer over that of cylstm: violet, cylstm is faster; orange, bold, a peer is"
        )
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)


COLOURS, EXTREME = "PuOr", 1.2  # of the logarithms to base 2
