"""Measure an LSTM on a machine that it has not for itself: ``make bench-company``.

cylstm, PyTorch and ONNX Runtime in the same company: alone, after each other's calls and rests, beside busy processes,
from several Python threads, with less than two processors. A full run keeps the results of this kind of machine in
``benchmarks/results/company`` and renews what the page about company shows.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "company"


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--situations", metavar="a,b", help="only these, by letter or by words of the name, as 'f: after 30'"
    )
    parser.add_argument("--shapes", metavar="1x256,stream", help="only those whose name begins with one of these")
    parser.add_argument("--rounds", type=_count, default=12, metavar="N", help="turns of each contender, at most (12)")
    parser.add_argument(
        "--seconds", type=float, default=1.2, help="of a cell; until it has three rounds four times as many (1.2)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer situations and shapes, two rounds; nothing is kept")
    parser.add_argument("--threads", type=_count, default=2, help="of every contender, and processors for all (2)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results there, and nothing else")
    parser.add_argument(
        "--docs",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="renew the page from files of results, each of a run, alone",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def run(situations: str | None, shapes: str | None, *, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure, and return what is kept of it; ``situations`` and ``shapes`` as on the command line.

    After Ctrl-C the rows are those until then.
    """
    import machine
    from beside.contenders import SHAPES, prepare
    from beside.measure import Unavailable, measure_cell
    from beside.neighbours import neighbours
    from beside.situations import situations as all_situations
    from compare import results
    from contenders import CONTENDERS

    from cylstm.progress import Progress

    for name in ("cylstm-cython", "torch-onednn", "onnxruntime"):
        if name not in CONTENDERS or not CONTENDERS[name].installed:
            raise SystemExit(f"{name} must be there, got {', '.join(n for n, c in CONTENDERS.items() if c.installed)}")
    state = {**machine.facts(), "load": machine.load(), **machine.scheduling()}
    chosen = _chosen(situations, {one.key: one for one in all_situations(neighbours(threads))})
    cases = [prepare(shape, threads) for shape in _chosen(shapes, {shape.name: shape for shape in SHAPES})]
    rng, rows, left_out, others, complete = random.Random(0), [], {}, {}, False
    with (
        contextlib.suppress(KeyboardInterrupt),
        Progress(len(chosen) * len(cases), "cells", shown=True) as progress,
    ):
        for situation in chosen:
            processors = machine.Processors()
            for prepared in cases:
                try:
                    if situation.key not in left_out:
                        rows += measure_cell(situation, prepared, rounds, seconds, rng)
                except Unavailable as error:
                    left_out[situation.key] = str(error)
                progress.advance(1)
            others[situation.key] = processors.shares()
        complete = True
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": results.commit(),
        "command": " ".join(["python benchmarks/company.py", *sys.argv[1:]]),
        "threads": threads,
        "machine": state,
        "complete": complete,
        "left_out": left_out,
        "processors": others,
        "rows": rows,
    }


def _chosen(words: str | None, named: dict[str, Any]) -> list[Any]:
    """Those whose name begins with one of the words between commas; all where there are none."""
    wanted = [word.strip() for word in words.split(",")] if words else [""]
    found = [one for name, one in named.items() if name.startswith(tuple(wanted))]
    if unknown := [word for word in wanted if not any(name.startswith(word) for name in named)]:
        raise SystemExit(f"no name begins with {unknown[0]!r}: {', '.join(named)}")
    return found


def main() -> int:
    """Measure, print, keep."""
    arguments = parser().parse_args()
    if arguments.docs:
        from beside.report import write_docs

        write_docs([json.loads(path.read_text("utf-8")) for path in arguments.docs])
        return 0
    if hasattr(os, "sched_setaffinity"):  # company is had on as many processors as there are threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    from beside import contenders, report, situations
    from compare import results

    few = bool(arguments.quick or arguments.situations or arguments.shapes)
    if arguments.quick:
        arguments.situations = arguments.situations or situations.QUICK
        arguments.shapes = arguments.shapes or contenders.QUICK
        arguments.rounds, arguments.seconds = min(arguments.rounds, 2), min(arguments.seconds, 0.5)
    data = run(
        arguments.situations,
        arguments.shapes,
        threads=arguments.threads,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )

    print("\n" + report.text(data))
    if arguments.output:
        results.save(data, arguments.output)
    elif data["complete"] and not few:
        path = RESULTS / f"{results.machine_of(data)}.json"
        results.save(data, path)
        report.write_docs([data])
        print(f"\nkept in {path}")
    return 1 if report.wrong(data) else 0


if __name__ == "__main__":
    sys.exit(main())
