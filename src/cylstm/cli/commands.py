"""The subcommands: each calls what does the work, which is imported when it is needed, and prints the result."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any


def info(arguments: argparse.Namespace) -> int:
    """``cylstm info``."""
    from .info import system_info

    info = system_info()
    if _json(arguments, info):
        return 0
    rows = {row["name"]: ": ".join(filter(None, (row["status"], row["reason"]))) for row in info["backends"]}
    for title, section in {**info, "backends": rows, "environment": info["environment"] or {"": "nothing set"}}.items():
        print(f"{title}:")
        _print_table(section, indent="  ")
    return 0


def backends(arguments: argparse.Namespace) -> int:
    """``cylstm backends``."""
    from ..backends.plugins import available_backends

    print(available_backends())
    return 0


def check_backend(arguments: argparse.Namespace) -> int:
    """``cylstm check-backend``."""
    from ..backends.plugins import error_text
    from ..progress import Progress
    from ..testing import checks
    from ..testing.kit import failure

    todo = list(checks(arguments.name, bitwise=arguments.bitwise))
    failures = {}
    with Progress(len(todo), "checks") as bar:
        for check in todo:
            if (error := failure(check)) is not None:
                failures[check.id] = f"{check.description} {error_text(error)}"
            bar.advance(1)
    for name, reason in failures.items():
        print(f"FAILED {name}: {reason}")
    print(f"backend {arguments.name}: {len(todo) - len(failures)} of {len(todo)} checks passed")
    return 1 if failures else 0


def run(arguments: argparse.Namespace) -> int:
    """``cylstm run``."""
    from ..backends.registry import use_backend
    from .run import run_file

    with nullcontext() if arguments.backend is None else use_backend(arguments.backend):
        report = run_file(
            arguments.model,
            arguments.input,
            arguments.output,
            prefix=arguments.prefix,
            head=arguments.head,
            batch_first=arguments.batch_first,
            dtype=arguments.dtype,
            precision=arguments.precision,
            chunk=arguments.chunk,
            batch_chunk=arguments.batch_chunk,
            progress=arguments.progress,
        )
    if _json(arguments, report):
        return 0
    backend = report["backend"]
    kept = ", ".join(f"{name} {tuple(shape)}" for name, shape in report["results"].items())
    rows = {
        "model": f"{report['lstm']}, {report['dtype']}",
        "input": f"{report['input']}: {report['sequences']:,} sequences of {report['steps']:,} steps",
        "output": f"{report['output']}: {kept}" if report["output"] else "not kept (-o OUTPUT keeps it)",
        "time": f"{report['seconds']:.3f} s",
        "speed": f"{report['sequences_per_second']:,.0f} sequences/s, {report['steps_per_second']:,.0f} steps/s",
        "backend": backend["name"],
        "instruction set": backend.get("instruction_set"),
        "threads": backend.get("threads"),
    }
    _print_table({name: value for name, value in rows.items() if value is not None})
    return 0


def convert(arguments: argparse.Namespace) -> int:
    """``cylstm convert``."""
    from .convert import convert_file

    print(f"{arguments.target}: {convert_file(arguments.source, arguments.target, prefix=arguments.prefix)}")
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """``cylstm inspect``."""
    from .convert import inspect_file

    report = inspect_file(arguments.file)
    if _json(arguments, report):
        return 0
    print(f"{report['file']}: {report['bytes']:,} bytes")
    for one in report["modules"]:
        if "refused" in one:
            text = f"refused: {one['refused']}"
        elif "other" in one:
            text = one["other"]
        else:
            text = f"{one['module']}, {one['parameters']:,} parameters, {one['dtype']}"
        options = f"; {one['options']}" if "options" in one else ""
        print(f"  {one['prefix'] or '(no prefix)'}  {text}{options}")
    if others := report["other_arrays"]:
        print(f"  and {others} other array{'s' if others > 1 else ''}")
    if "assumed" in report:
        print(f"  {report['assumed']}")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """``cylstm bench``."""
    from .bench import benchmark

    sizes = {"input_size": arguments.input or arguments.hidden, "hidden_size": arguments.hidden}
    report = benchmark(
        {**sizes, "num_layers": arguments.layers, "bidirectional": arguments.bidirectional},
        batch_size=arguments.batch,
        steps=arguments.steps,
        dtype=arguments.dtype,
        precision=arguments.precision,
        training=arguments.training,
        backends=arguments.backend,
        peer=arguments.peer,
        threads=arguments.threads,
        seconds=arguments.seconds,
    )
    if _json(arguments, report):
        return 0
    computed = report["dtype"] if report["precision"] == "float32" else f"{report['dtype']} in {report['precision']}"
    rows = {
        "model": f"{report['lstm']}, {computed}" + ", forward and backward" * report["training"],
        "input": f"{report['batch_size']:,} sequences of {report['steps']:,} steps",
        "threads": report["threads"],
    }
    _print_table(rows)
    print()
    lines = [("backend", "ms", "ratio", "GFLOP/s", "error")]
    for row in report["rows"]:
        milliseconds, ratio = f"{1e3 * row['seconds']:.4g}", f"{row['ratio']:.2f}"
        lines.append((row["name"], milliseconds, ratio, f"{row['gflops']:.4g}", f"{row['error']:.1e}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *numbers in lines:
        print("  ".join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]))
    return 0


def _json(arguments: argparse.Namespace, report: Mapping[str, Any]) -> bool:
    """Print the report as JSON with ``--json``, and say whether it was printed."""
    if arguments.json:
        print(json.dumps(report, indent=2))
    return bool(arguments.json)


def _print_table(rows: Mapping[str, Any], indent: str = "") -> None:
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        print(f"{indent}{name.replace('_', ' '):{width}}  {text}" if name else f"{indent}{text}")
