"""Compare cylstm with its peers, print the tables, keep the results: ``make bench``, ``make bench-quick``.

A full run replaces the results of this kind of machine, appends to the history, and renews what the documentation
shows. Where CYLSTM_MAX_ISA holds our kernels back, PyTorch is held back to the same instruction set (ONNX Runtime
cannot be), and nothing goes to the docs.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path

#: What holds oneDNN, PyTorch's own kernels and MKL to the instruction set that CYLSTM_MAX_ISA names.
PEERS_HELD = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "generic": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "what",
        nargs="?",
        choices=("all", "limits", "costs", "report", "docs"),
        default="all",
        help="limits of the machine alone; costs beside the arithmetic alone; the tables of kept results once more; "
        "tables and plots of the documentation once more",
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases, less time; nothing is kept")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (2)")
    parser.add_argument("-k", dest="words", nargs="+", help="only cases whose name holds one of these; nothing is kept")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results of this run there too")
    parser.add_argument("--file", type=Path, help="of report and docs: in the place of the newest kept results")
    parser.add_argument(
        "--statistic", choices=("median", "min"), default="median", help="of report; min: of a busy machine"
    )
    return parser


def main() -> int:
    arguments = parser().parse_args()
    # Read when the libraries are loaded, so set before anything else starts.
    count = str(arguments.threads)
    os.environ.update({name: count for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")})
    os.environ.update(PEERS_HELD.get(os.environ.get("CYLSTM_MAX_ISA", ""), {}))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if arguments.what == "all":
        return compare_all(arguments)

    if arguments.what == "limits":
        from compare.roofline import describe, measure_limits

        print(describe(measure_limits(arguments.threads)))
    elif arguments.what == "costs":
        from compare.costs import measure_costs
        from compare.report import aligned, table_of_costs

        print(aligned(table_of_costs({"costs": measure_costs(arguments.threads, quick=arguments.quick)})))
    elif arguments.what == "report":
        from compare import report, results

        print(report.text(results.load(arguments.file), arguments.statistic))
    else:
        from compare import plots, report, results

        data = results.load(arguments.file)
        report.write_docs(data)
        plots.draw(data)
    return 0


def compare_all(arguments: argparse.Namespace) -> int:
    """Compare, print, keep. The status is 1 where a result is wrong."""
    import machine
    from cases import CASES
    from compare import report, results
    from compare.comparison import compare
    from compare.costs import measure_costs

    words = arguments.words or [""]
    cases = [case for case in CASES if any(word in case.name for word in words) and (case.quick or not arguments.quick)]
    if not cases:
        parser().error(f"no case has one of {words} in its name")
    data = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": results.commit(),
        "command": " ".join(["python benchmarks/run.py", *sys.argv[1:]]),
        "machine": {**machine.facts(), "load": machine.load()},  # before anything runs: the load is that of others
        "costs": {} if arguments.words else measure_costs(arguments.threads, quick=arguments.quick),
        **compare(cases, arguments.threads, quick=arguments.quick),
    }
    print("\n" + report.text(data))
    if arguments.output:
        results.save(data, arguments.output)
    if not (arguments.quick or arguments.words):
        print(f"\nkept in {results.keep(data)} and {results.HISTORY}")
        if not os.environ.get("CYLSTM_MAX_ISA"):
            from compare.plots import draw

            report.write_docs(data)
            draw(data)
    return 1 if data["invalid"] else 0


if __name__ == "__main__":
    sys.exit(main())
