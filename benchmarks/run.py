"""Run the benchmarks, print the tables, save the results, draw the plots: ``make bench``, ``make bench-quick``.

A full run also renews what the documentation shows: tables in ``docs/_generated``, plots in ``docs/_static``. Where
CYLSTM_MAX_ISA holds our kernels back, PyTorch is held back to the same instruction set (ONNX Runtime cannot be), and
nothing goes to the docs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

#: What holds oneDNN, PyTorch's own kernels and MKL to the instruction set that CYLSTM_MAX_ISA names.
PEERS_HELD = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "generic": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases, less time; nothing goes to the docs")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (2)")
    parser.add_argument("-k", dest="expression", help="only these, as pytest's -k; nothing goes to the docs")
    arguments = parser.parse_args()

    # Read when the libraries are loaded, so set before anything else starts.
    count = str(arguments.threads)
    os.environ.update({name: count for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")})
    os.environ.update(PEERS_HELD.get(os.environ.get("CYLSTM_MAX_ISA", ""), {}))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["BENCH_COMMAND"] = " ".join(["python benchmarks/run.py", *sys.argv[1:]])

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "results.json")
        command = [sys.executable, "-m", "pytest", str(HERE), "-q", "-rf", "-p", "no:cacheprovider", "--tb=no"]
        command += [f"--benchmark-json={target}", f"--bench-threads={count}", "--benchmark-columns=median,iqr,rounds"]
        command += ["--benchmark-name=short", "--benchmark-sort=fullname"]
        command += ["--bench-quick"] * arguments.quick
        command += ["-k", arguments.expression] if arguments.expression else []
        status = subprocess.run(command, cwd=HERE.parent).returncode
        if not target.exists() or not target.stat().st_size:
            return status or 1
        data = json.loads(target.read_text("utf-8"))

    from costs import measure_costs
    from report import RESULTS, text, write_docs

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{_slug(data, arguments)}.json"
    path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")  # also if a cost cannot be measured
    if not arguments.expression:
        data["costs"] = measure_costs(arguments.threads, quick=arguments.quick)
        path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    print("\n" + text(data))
    print(f"\nsaved {path.relative_to(HERE.parent)}")
    if not (arguments.quick or arguments.expression or os.environ.get("CYLSTM_MAX_ISA")):
        from plots import draw

        write_docs(data)
        draw(data)
    return status


def _slug(data: dict, arguments: argparse.Namespace) -> str:
    """Date, processor, threads and what is special about the run."""
    processor = re.sub(r"[^a-z0-9]+", "-", data["machine_info"]["processor"].lower()).strip("-")
    parts = [data["datetime"][:16].replace(":", ""), processor, f"{arguments.threads}threads"]
    parts += [os.environ["CYLSTM_MAX_ISA"]] if os.environ.get("CYLSTM_MAX_ISA") else []
    parts += ["quick"] * arguments.quick + ["part"] * bool(arguments.expression)
    return "-".join(parts)


if __name__ == "__main__":
    sys.exit(main())
