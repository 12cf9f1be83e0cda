"""The command ``cylstm``. Arguments are read here; the work is done elsewhere and imported when it is needed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

_RUN = """\
Run the LSTM of a model file over the sequences of an input file.

MODEL   a .safetensors or .npz file with parameters under PyTorch's names, such as a state_dict. Sizes and
        options are inferred from names and shapes. Other layers in the file are left alone. Or an .onnx, .keras
        or .weights.h5 file.
INPUT   an .npy file of shape (T, B, I), or (B, T, I) with --batch-first, or (T, I) for one sequence; or an .npz
        file with the array input, and h_0 and c_0 if the states do not begin at zero.

An .npy file is memory-mapped and read in chunks, so it may be larger than memory; an .npz file is read as a whole.
However it is cut, the result is that of one call, bit for bit on the cython backend: the states are carried from
chunk to chunk. A bidirectional LSTM reads each sequence from both ends, so it is cut by sequences alone.
"""
_RUN_MORE = """\
OUTPUT appears under its name when it is complete; a run that fails or is interrupted leaves nothing behind and an
older file of this name untouched.

exit status:
  0 done; 2 a wrong argument or file; 130 or 143 interrupted

examples:
  cylstm run model.safetensors input.npy -o output.npy
  cylstm run model.safetensors input.npy -o result.npz --prefix encoder.lstm. --batch-first
  cylstm run digits.safetensors images.npy -o scores.npy --prefix lstm. --head head.
  cylstm run model.safetensors day.npy -o day.out.npy --chunk 10000 --backend cython --dtype float32
"""
_READS = "a .safetensors, .npz, .onnx, .keras or .weights.h5 file"
_CONVERT = """\
Read one LSTM from a model file and write it to another, each in the format of its extension.

Nothing in a file is executed. What cylstm does not compute is refused by name, and what OUT has no place for, too.
"""
_CONVERT_MORE = """\
examples:
  cylstm convert model.keras model.safetensors
  cylstm convert model.onnx model.npz --prefix /lstm/LSTM
  cylstm convert model.safetensors model.onnx --prefix encoder.lstm.
"""
_BENCH = """\
Run one LSTM on several backends in turn, and show the median time of a call beside the error.

The rounds are interleaved, so that what else happens on the machine meets all backends alike. Weights and input are
random, the same each time. The error is the largest against the numpy backend in double precision; with --training,
that of a gradient as a share of the largest value in its array. GFLOP/s counts the matrix products.
"""
_BENCH_MORE = """\
examples:
  cylstm bench --steps 1 --hidden 64
  cylstm bench --batch 16 --hidden 256 --layers 2 --bidirectional --training --threads 2
  cylstm bench --backend cython numpy --peer torch --json
"""
#: What .npy files can hold: bfloat16 would come back from them as bytes.
_DTYPES = ["float16", "float32", "float64", "complex64", "complex128"]
_MAIN_MORE = """\
environment:
  CYLSTM_BACKEND      the backend: a name, or package.module:Class
  CYLSTM_NUM_THREADS  the number of threads
  CYLSTM_MAX_ISA      the highest instruction set that the compiled kernels may use

examples:
  cylstm info
  cylstm check-backend numpy
  cylstm run model.safetensors input.npy -o output.npy
"""


class _Signalled(BaseException):
    """SIGTERM or SIGHUP came; raised so that temporary files are removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Errors are one line on stderr."""
    parsed = _parser().parse_args(arguments)
    try:
        with _signals(), _warnings():
            status: int = parsed.command(parsed)
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # the reader of our output has gone, as in `cylstm info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except _Signalled as error:
        return _fail("terminated", 128 + error.number)
    except MemoryError:
        return _fail("not enough memory: try a smaller --chunk or --batch-chunk", 2)
    except OSError as error:
        reason = error.strerror or str(error)
        return _fail(f"{error.filename}: {reason}" if error.filename and error.strerror else reason, 2)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        return _fail(str(error), 2)


def _parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="cylstm",
        description="PyTorch's LSTM as a small compiled package, on the command line.",
        epilog=_MAIN_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cylstm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Callable[[argparse.Namespace], int], summary: str, **more: Any) -> Any:
        one = commands.add_parser(
            name,
            **{"help": summary, "description": summary, **more},
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(command=function)
        return one

    info = command("info", _info, "Show versions, processor, backends, threads and environment.")
    info.add_argument("--json", action="store_true", help="as JSON")

    command("backends", _backends, "List the backends, whether they work here, and if not, why.")

    check = command(
        "check-backend",
        _check_backend,
        "Put a backend through the conformance kit.",
        epilog="exit status:\n  0 all checks passed; 1 some failed; 2 the backend cannot be used",
    )
    check.add_argument("name", metavar="NAME", help="a backend's name, or package.module:Class")
    check.add_argument(
        "--bitwise", action="store_true", help="also check, bit for bit, that steps, chunks and batches change nothing"
    )

    run = command("run", _run, "Run a model over a file of sequences.", description=_RUN, epilog=_RUN_MORE)
    run.add_argument("model", metavar="MODEL", type=Path, help=_READS)
    run.add_argument("input", metavar="INPUT", type=Path, help="an .npy or .npz file")
    run.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        type=Path,
        help=".npy for the output, or the scores with --head; .npz for output, h_n and c_n (and logits). "
        "Without it nothing is kept",
    )
    run.add_argument("--prefix", default="", metavar="P", help="where in MODEL the LSTM is, such as encoder.lstm.")
    run.add_argument(
        "--head", metavar="P", help="where in MODEL a linear layer is, to apply to the last hidden state; gives logits"
    )
    run.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="INPUT and OUTPUT are (B, T, features); by default what MODEL says, else not",
    )
    run.add_argument("--backend", metavar="NAME", help="the backend; an explicit choice works or is an error")
    run.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="convert MODEL and INPUT to it; by default INPUT must have the dtype of MODEL",
    )
    run.add_argument(
        "--chunk", metavar="STEPS", type=_positive, help="time steps at a time; by default about 16 MiB of them"
    )
    run.add_argument("--batch-chunk", metavar="SEQUENCES", type=_positive, help="sequences at a time; likewise")
    run.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show progress; by default on a terminal only",
    )
    run.add_argument("--json", action="store_true", help="report as JSON")

    convert = command(
        "convert", _convert, "Convert a model file to another format.", description=_CONVERT, epilog=_CONVERT_MORE
    )
    convert.add_argument("source", metavar="IN", type=Path, help=_READS)
    convert.add_argument("target", metavar="OUT", type=Path, help="a .safetensors, .npz, .onnx or .weights.h5 file")
    convert.add_argument("--prefix", default="", metavar="P", help="where in IN the module is, such as encoder.lstm.")

    inspect = command("inspect", _inspect, "Show what is in a model file.")
    inspect.add_argument("file", metavar="FILE", type=Path, help=_READS)
    inspect.add_argument("--json", action="store_true", help="as JSON")

    bench = command("bench", _bench, "Measure the backends.", description=_BENCH, epilog=_BENCH_MORE)
    bench.add_argument("--batch", metavar="B", type=_positive, default=1, help="sequences side by side (1)")
    bench.add_argument("--steps", metavar="T", type=_positive, default=100, help="time steps (100)")
    bench.add_argument("--input", metavar="I", type=_positive, help="input size; by default the hidden size")
    bench.add_argument("--hidden", metavar="H", type=_positive, default=128, help="hidden size (128)")
    bench.add_argument("--layers", metavar="L", type=_positive, default=1, help="layers (1)")
    bench.add_argument("--bidirectional", action="store_true", help="both directions")
    bench.add_argument("--dtype", choices=_DTYPES, default="float32", help="of weights and input (float32)")
    bench.add_argument("--training", action="store_true", help="forward and backward pass")
    bench.add_argument("--threads", metavar="N", type=_positive, help="of the compiled kernels, and of PyTorch")
    bench.add_argument(
        "--backend", metavar="NAME", nargs="+", help="the backends; by default all that are here and can"
    )
    bench.add_argument("--peer", choices=["torch"], help="measure torch.nn.LSTM too")
    bench.add_argument("--seconds", metavar="S", type=_seconds, default=1.0, help="time for each of them (1)")
    bench.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, got {text!r}")
    return seconds


# Commands -----------------------------------------------------------------------------------------------------------


def _info(arguments: argparse.Namespace) -> int:
    from .info import system_info

    info = system_info()
    if _json(arguments, info):
        return 0
    rows = {row["name"]: ": ".join(filter(None, (row["status"], row["reason"]))) for row in info["backends"]}
    for title, section in {**info, "backends": rows, "environment": info["environment"] or {"": "nothing set"}}.items():
        print(f"{title}:")
        _print_table(section, indent="  ")
    return 0


def _backends(arguments: argparse.Namespace) -> int:
    from ..backends.plugins import available_backends

    print(available_backends())
    return 0


def _check_backend(arguments: argparse.Namespace) -> int:
    from ..progress import Progress
    from ..testing import checks

    todo = list(checks(arguments.name, bitwise=arguments.bitwise))
    failures = {}
    with Progress(len(todo), "checks") as bar:
        for check in todo:
            try:
                check()
            except Exception as error:
                failures[check.id] = f"{check.description} {type(error).__name__}: {error}"
            bar.advance(1)
    for name, reason in failures.items():
        print(f"FAILED {name}: {reason}")
    print(f"backend {arguments.name}: {len(todo) - len(failures)} of {len(todo)} checks passed")
    return 1 if failures else 0


def _run(arguments: argparse.Namespace) -> int:
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


def _convert(arguments: argparse.Namespace) -> int:
    from .convert import convert_file

    print(f"{arguments.target}: {convert_file(arguments.source, arguments.target, prefix=arguments.prefix)}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
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
        print(f"  {one['prefix'] or '(no prefix)'}  {text}")
    if others := report["other_arrays"]:
        print(f"  and {others} other array{'s' if others > 1 else ''}")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from .bench import benchmark

    sizes = {"input_size": arguments.input or arguments.hidden, "hidden_size": arguments.hidden}
    report = benchmark(
        {**sizes, "num_layers": arguments.layers, "bidirectional": arguments.bidirectional},
        batch_size=arguments.batch,
        steps=arguments.steps,
        dtype=arguments.dtype,
        training=arguments.training,
        backends=arguments.backend,
        peer=arguments.peer,
        threads=arguments.threads,
        seconds=arguments.seconds,
    )
    if _json(arguments, report):
        return 0
    rows = {
        "model": f"{report['lstm']}, {report['dtype']}" + ", forward and backward" * report["training"],
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


# Help for all of them -----------------------------------------------------------------------------------------------


def _json(arguments: argparse.Namespace, report: Mapping[str, Any]) -> bool:
    """Print the report as JSON if that is asked for, and say whether it was."""
    if arguments.json:
        print(json.dumps(report, indent=2))
    return bool(arguments.json)


def _print_table(rows: Mapping[str, Any], indent: str = "") -> None:
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        print(f"{indent}{name.replace('_', ' '):{width}}  {text}" if name else f"{indent}{text}")


def _fail(message: str, status: int) -> int:
    print(f"cylstm: {' '.join(message.split())}", file=sys.stderr)
    return status


@contextmanager
def _warnings() -> Iterator[None]:
    """Warnings as one line on stderr."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"cylstm: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _signals() -> Iterator[None]:
    """Raise where these signals would end the process at once and leave temporary files."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise _Signalled(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    old = {number: signal.signal(number, handle) for number in numbers if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
