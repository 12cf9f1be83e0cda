"""Options and facts of a run of the benchmarks."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from cases import CASES
from contenders import CONTENDERS
from session import KEY, Session

PACKAGES = ("cylstm", "numpy", "torch", "onnxruntime", "jax", "keras", "tensorflow", "pytest-benchmark")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cylstm benchmarks")
    group.addoption("--bench-threads", type=int, default=2, help="threads of every contender (2)")
    group.addoption("--bench-quick", action="store_true", help="fewer cases, less time for each")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KEY] = Session(config)


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Session:
    return request.config.stash[KEY]


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "load": config.stash[KEY].load,
        "python": platform.python_version(),
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(("CYLSTM_", "OMP_"))
        },
    }


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    session = config.stash[KEY]
    limits, cases = session.end(), {case.name: case for case in CASES}
    for row in output_json["benchmarks"]:
        info = row["extra_info"]
        if limits:
            skips_zeros = CONTENDERS[info["contender"]].skips_zeros
            info["share"] = limits.least_seconds(cases[info["case"]], skips_zeros=skips_zeros) / row["stats"]["median"]
        row["stats"].pop("data", None)
        row.pop("options", None)
    output_json["command"] = os.environ.get("BENCH_COMMAND", "pytest " + " ".join(sys.argv[1:]))
    output_json["threads"] = session.threads
    output_json["invalid"] = session.invalid
    output_json["limits"] = limits and limits.to_json()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        if package != "cylstm":
            return None
        import cylstm

        return cylstm.__version__


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
