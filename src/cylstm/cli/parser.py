"""The arguments of all subcommands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..backends.precision import PRECISIONS
from . import commands

_RUN = """\
Run the LSTM of a model file over the sequences of an input file.

MODEL   a .safetensors or .npz file, or a checkpoint of PyTorch (.pt, .pth, .ckpt, .bin), with parameters under
        PyTorch's names, such as a state_dict. Sizes and options are inferred from names and shapes. Other layers in
        the file are left alone. Or an .onnx, .keras or .h5 file.
INPUT   an .npy file of shape (T, B, I), or (B, T, I) with --batch-first, or (T, I) for one sequence; or an .npz
        file with the array input, h_0 and c_0 if the states do not begin at zero, and lengths if there is padding.

An .npy file is memory-mapped and read in chunks, so it may be larger than memory; an .npz file is read as a whole.
However it is cut, the result is that of one call, bit for bit on the cython backend: the states are carried from
chunk to chunk. A bidirectional LSTM reads each sequence from both ends, so it is cut by sequences alone.
"""
_RUN_MORE = """\
OUTPUT appears under its name when it is complete. A run that fails or is interrupted leaves nothing behind. A file that
is there is replaced with --force alone, and an input never.

exit status:
  0 done; 2 a wrong argument or file; 130 or 143 interrupted

examples:
  cylstm run model.safetensors input.npy -o output.npy
  cylstm run model.safetensors input.npy -o result.npz --prefix encoder.lstm. --batch-first
  cylstm run digits.safetensors images.npy -o scores.npy --prefix lstm. --head head.
  cylstm run model.safetensors day.npy -o day.out.npy --chunk 10000 --backend cython --dtype float32
  cylstm run model.safetensors padded.npy -o output.npy --lengths lengths.npy --threads 4
"""
_READS = "a .safetensors, .npz, .onnx, .keras or .h5 file, or a checkpoint of PyTorch (.pt, .pth, .ckpt, .bin)"
_CONVERT = """\
Read one LSTM from a model file and write it to another, each in the format of its extension.

Nothing in a file is executed. What cylstm does not compute is refused by name, and what OUT has no place for, too.
What else IN holds is named and not converted. A file that is there is replaced with --force alone, and IN never.
"""
_CONVERT_MORE = """\
examples:
  cylstm convert model.keras model.safetensors
  cylstm convert model.ckpt model.safetensors
  cylstm convert model.onnx model.npz --prefix /lstm/LSTM
  cylstm convert model.safetensors model.onnx --prefix encoder.lstm. --batch-first
"""
_BENCH = """\
Run one LSTM on several backends in turn, and show the median time of a call beside the error.

The rounds are interleaved, so that what else happens on the machine meets all backends alike. The input is random, the
same each time; so are the weights, unless MODEL gives them and the sizes. The error is the largest against the numpy
backend in double precision; with --training, that of a gradient as a share of the largest value in its array. GFLOP/s
counts the matrix products.
"""
_BENCH_MORE = """\
examples:
  cylstm bench --steps 1 --hidden 64
  cylstm bench --batch 16 --hidden 256 --layers 2 --bidirectional --training --threads 2
  cylstm bench model.safetensors --prefix encoder.lstm. --steps 1 --peer
  cylstm bench --backend cython numpy --peer torch --json
"""
_DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]
_FORCE = "replace OUTPUT if it is there; without it that is an error. An input is never replaced"
_MAIN_MORE = """\
environment:
  CYLSTM_BACKEND      the backend: a name, or package.module:Class
  CYLSTM_NUM_THREADS  the number of threads
  CYLSTM_PRECISION    float32, bfloat16 or int8: how float32 models are computed
  CYLSTM_MAX_ISA      the highest instruction set that the compiled kernels may use

examples:
  cylstm info
  cylstm check-backend numpy
  cylstm run model.safetensors input.npy -o output.npy
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line; each subcommand's function is the default of ``command``."""
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="cylstm",
        description="PyTorch's LSTM as a small compiled package, on the command line.",
        epilog=_MAIN_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cylstm {__version__}")
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_info, _add_backends, _add_check_backend, _add_run, _add_convert, _add_inspect, _add_bench):
        add(group)
    return parser


def _command(group: Any, function: Callable[[argparse.Namespace], int], summary: str, **more: Any) -> Any:
    """The parser of a subcommand, which has the name of its function."""
    one = group.add_parser(
        function.__name__.replace("_", "-"),
        **{"help": summary, "description": summary, **more},
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.set_defaults(command=function)
    return one


def _add_info(group: Any) -> None:
    info = _command(group, commands.info, "Show versions, processor, backends, threads and environment.")
    info.add_argument("--json", action="store_true", help="as JSON")


def _add_backends(group: Any) -> None:
    summary = "List the backends: which is selected, whether they work here and if not, why, and what they compute."
    _command(group, commands.backends, summary).add_argument("--json", action="store_true", help="as JSON")


def _add_check_backend(group: Any) -> None:
    check = _command(
        group,
        commands.check_backend,
        "Put a backend through the conformance kit.",
        epilog="exit status:\n  0 all checks passed; 1 some failed; 2 the backend cannot be used",
    )
    check.add_argument("name", metavar="NAME", help="a backend's name, or package.module:Class")
    check.add_argument(
        "--bitwise", action="store_true", help="also check, bit for bit, that steps, chunks and batches change nothing"
    )
    check.add_argument("--json", action="store_true", help="as JSON")


def _add_run(group: Any) -> None:
    run = _command(group, commands.run, "Run a model over a file of sequences.", description=_RUN, epilog=_RUN_MORE)
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
        help="convert MODEL and INPUT to it; by default INPUT must have the dtype of MODEL. The output of bfloat16 is "
        "written as float32",
    )
    run.add_argument("--precision", choices=PRECISIONS, help="how a float32 MODEL is computed; by default as it says")
    run.add_argument(
        "--lengths",
        metavar="FILE",
        type=Path,
        help="an .npy file of the steps of each sequence: what is behind them is padding, and the output there is zero",
    )
    run.add_argument("--threads", metavar="N", type=_positive, help="of the compiled kernels")
    run.add_argument(
        "--chunk", metavar="STEPS", type=_positive, help="time steps at a time; by default about 16 MiB of them"
    )
    run.add_argument("--batch-chunk", metavar="SEQUENCES", type=_positive, help="sequences at a time; likewise")
    _add_progress(run)
    run.add_argument("--force", action="store_true", help=_FORCE)
    run.add_argument("--json", action="store_true", help="report as JSON")


def _add_convert(group: Any) -> None:
    convert = _command(
        group, commands.convert, "Convert a model file to another format.", description=_CONVERT, epilog=_CONVERT_MORE
    )
    convert.add_argument("source", metavar="IN", type=Path, help=_READS)
    convert.add_argument("target", metavar="OUT", type=Path, help="a .safetensors, .npz, .onnx or .weights.h5 file")
    convert.add_argument("--prefix", default="", metavar="P", help="where in IN the module is, such as encoder.lstm.")
    convert.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the module takes and gives (B, T, features); by default what IN says, else not",
    )
    convert.add_argument("--force", action="store_true", help=_FORCE.replace("OUTPUT", "OUT"))


def _add_inspect(group: Any) -> None:
    inspect = _command(group, commands.inspect, "Show what is in a model file.")
    inspect.add_argument("file", metavar="FILE", type=Path, help=_READS)
    inspect.add_argument("--json", action="store_true", help="as JSON")


def _add_bench(group: Any) -> None:
    bench = _command(group, commands.bench, "Measure the backends.", description=_BENCH, epilog=_BENCH_MORE)
    bench.add_argument("model", metavar="MODEL", type=Path, nargs="?", help=f"{_READS}; its LSTM is measured")
    bench.add_argument("--prefix", default="", metavar="P", help="where in MODEL the LSTM is, such as encoder.lstm.")
    bench.add_argument("--batch", metavar="B", type=_positive, default=1, help="sequences side by side (1)")
    bench.add_argument("--steps", metavar="T", type=_positive, default=100, help="time steps (100)")
    bench.add_argument("--input", metavar="I", type=_positive, help="input size; by default the hidden size")
    bench.add_argument("--hidden", metavar="H", type=_positive, help="hidden size (128)")
    bench.add_argument("--layers", metavar="L", type=_positive, help="layers (1)")
    bench.add_argument("--bidirectional", action="store_true", help="both directions")
    bench.add_argument("--dtype", choices=_DTYPES, help="of weights and input; by default that of MODEL, or float32")
    bench.add_argument("--precision", choices=PRECISIONS, help="how float32 is computed (float32)")
    bench.add_argument("--training", action="store_true", help="forward and backward pass")
    bench.add_argument("--threads", metavar="N", type=_positive, help="of the compiled kernels and of the peers")
    bench.add_argument(
        "--backend", metavar="NAME", nargs="+", help="the backends; by default all that are here and can"
    )
    bench.add_argument(
        "--peer",
        choices=["torch", "onnxruntime"],
        nargs="*",
        help="measure torch.nn.LSTM and ONNX Runtime too; without a name those that are installed and can",
    )
    bench.add_argument("--seconds", metavar="S", type=_seconds, default=1.0, help="time for each of them (1)")
    _add_progress(bench)
    bench.add_argument("--json", action="store_true", help="as JSON")


def _add_progress(parser: Any) -> None:
    action = argparse.BooleanOptionalAction
    parser.add_argument("--progress", action=action, default=None, help="show progress; by default on a terminal only")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of 1 or more, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, got {text!r}")
    return seconds
