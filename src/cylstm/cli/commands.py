"""The subcommands: each calls what does the work, which is imported when it is needed, and prints the result."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from ..words import counted, printable


def info(arguments: argparse.Namespace) -> int:
    """``cylstm info``."""
    from .info import system_info

    info = system_info()
    if _json(arguments, info):
        return 0
    backends = [(row["name"], ": ".join(filter(None, (row["status"], row["reason"])))) for row in info["backends"]]
    backend = [(name.replace("_", " "), fact) for name, fact in info["backend"].items()]
    wrong = info.pop("wrong")
    environment = [
        (name, f"{text}: wrong, {wrong[name]}" if name in wrong else text) for name, text in info["environment"].items()
    ]
    sections = {**info, "backend": backend, "backends": backends, "environment": environment or [("", "nothing set")]}
    for title, section in sections.items():
        print(f"{title}:")
        _print_facts(section, indent="  ")
    return 0


def backends(arguments: argparse.Namespace) -> int:
    """``cylstm backends``."""
    from .info import backends_info

    report = backends_info()
    if _json(arguments, report):
        return 0
    selected = report["selected"]
    reason = f": {selected['reason']}" if "reason" in selected else ""
    print(printable(f"selected: {selected['name'] or 'none'}, by {selected['by']}{reason}"))
    rows: list[tuple[str, ...]] = [("name", "distribution", "status", "dtypes", "gradients", "reason")]
    for row in report["backends"]:
        gradients = {True: "yes", False: "no", None: ""}[row.get("training")]
        row = {**row, "dtypes": ", ".join(row.get("dtypes", ())), "gradients": gradients}
        rows.append(tuple(printable(" ".join(str(row[column]).split())) for column in rows[0]))
    _print_table(rows)
    return 0


def check_backend(arguments: argparse.Namespace) -> int:
    """``cylstm check-backend``."""
    from ..backends.registry import load
    from ..progress import Progress
    from ..testing import checks
    from ..testing.kit import failure, said

    load(arguments.name, "NAME")
    todo = list(checks(arguments.name, bitwise=arguments.bitwise))
    failures = {}
    with Progress(len(todo), "checks") as bar:
        for check in todo:
            if (error := failure(check)) is not None:
                failures[check.id] = f"{check.description} {said(error)}"
            bar.advance(1)
    report = {"backend": arguments.name, "checks": len(todo), "passed": len(todo) - len(failures), "failed": failures}
    if not _json(arguments, report):
        for name, reason in failures.items():
            print(f"FAILED {name}: {reason}")
        print(f"backend {arguments.name}: {report['passed']} of {len(todo)} checks passed")
    return 1 if failures else 0


def run(arguments: argparse.Namespace) -> int:
    """``cylstm run``."""
    from ..backends.cython_backend.threads import set_num_threads
    from ..backends.registry import selecting
    from .run import run_file

    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    with nullcontext() if arguments.backend is None else selecting(arguments.backend, "--backend"):
        report = run_file(
            arguments.model,
            arguments.input,
            arguments.output,
            prefix=arguments.prefix,
            head=arguments.head,
            batch_first=arguments.batch_first,
            dtype=arguments.dtype,
            precision=arguments.precision,
            lengths=arguments.lengths,
            chunk=arguments.chunk,
            batch_chunk=arguments.batch_chunk,
            progress=arguments.progress,
            force=arguments.force,
        )
    if _json(arguments, report):
        return 0
    backend = report["backend"]
    kept = ", ".join(f"{name} {tuple(shape)}" for name, shape in report["results"].items())
    rows = {
        "model": f"{report['lstm']}, {report['dtype']}",
        "input": f"{report['input']}: {counted(report['sequences'], 'sequence')} of {counted(report['steps'], 'step')}",
        "output": f"{report['output']}: {kept}" if report["output"] else "not kept (-o OUTPUT keeps it)",
        "time": f"{report['seconds']:.3g} s",
        "speed": f"{report['sequences_per_second']:,.0f} sequences/s, {report['steps_per_second']:,.0f} steps/s",
        "backend": backend["name"],
        "instruction set": backend.get("instruction_set"),
        "threads": backend.get("threads"),
    }
    _print_facts({name: value for name, value in rows.items() if value is not None})
    return 0


def convert(arguments: argparse.Namespace) -> int:
    """``cylstm convert``."""
    from .convert import convert_file

    written, left = convert_file(
        arguments.source,
        arguments.target,
        prefix=arguments.prefix,
        batch_first=arguments.batch_first,
        force=arguments.force,
    )
    print(printable(f"{arguments.target}: {written}"))
    if left:
        print(printable(f"not converted, and only in {arguments.source}: {left}"))
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """``cylstm inspect``."""
    from .inspect import inspect_file, lines

    report = inspect_file(arguments.file)
    if not _json(arguments, report):
        print(*lines(report), sep="\n")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """``cylstm bench``."""
    from ..backends.cython_backend.threads import set_num_threads
    from .bench import benchmark, model_lstm, random_lstm

    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    given = {
        "input_size": arguments.input,
        "hidden_size": arguments.hidden,
        "num_layers": arguments.layers,
        "bidirectional": arguments.bidirectional or None,
    }
    if arguments.model is not None:
        if any(size is not None for size in given.values()):
            raise ValueError(
                "--input, --hidden, --layers and --bidirectional must be left out with MODEL, which says them"
            )
        lstm = model_lstm(arguments.model, arguments.prefix, arguments.dtype)
    else:
        sizes = {name: size for name, size in given.items() if size is not None}
        sizes = {"hidden_size": 128} | sizes
        lstm = random_lstm({"input_size": sizes["hidden_size"]} | sizes, arguments.dtype or "float32")
    report = benchmark(
        lstm,
        batch_size=arguments.batch,
        steps=arguments.steps,
        precision=arguments.precision,
        training=arguments.training,
        backends=arguments.backend,
        peers=arguments.peer,
        seconds=arguments.seconds,
        progress=arguments.progress,
    )
    if _json(arguments, report):
        return 0
    computed = report["dtype"] if report["precision"] == "float32" else f"{report['dtype']} in {report['precision']}"
    rows = {
        "model": f"{report['lstm']}, {computed}" + ", forward and backward" * report["training"],
        "input": f"{counted(report['batch_size'], 'sequence')} of {counted(report['steps'], 'step')}",
        "threads": report["threads"],
    }
    _print_facts(rows)
    print()
    lines = [("backend", "ms", "ratio", "GFLOP/s", "error")]
    for row in report["rows"]:
        milliseconds, ratio = f"{1e3 * row['seconds']:.4g}", f"{row['ratio']:.2f}"
        lines.append((row["name"], milliseconds, ratio, f"{row['gflops']:.4g}", f"{row['error']:.1e}"))
    _print_table(lines, numbers=True)
    return 0


def _json(arguments: argparse.Namespace, report: Mapping[str, Any]) -> bool:
    """Print the report as JSON with ``--json``, and say whether it was printed."""
    if arguments.json:
        print(json.dumps(report, indent=2))
    return bool(arguments.json)


def _print_facts(rows: Mapping[str, Any] | Sequence[tuple[str, Any]], indent: str = "") -> None:
    pairs = list(rows.items()) if isinstance(rows, Mapping) else rows
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        print(printable(f"{indent}{name:{width}}  {text}" if name else f"{indent}{text}"))


def _print_table(rows: Sequence[Sequence[str]], numbers: bool = False) -> None:
    """Columns side by side; numbers, all columns but the first, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = map(str.rjust if numbers else str.ljust, others, widths[1:])
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())
