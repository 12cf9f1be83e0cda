"""Files where memory, or the system, runs out: its error, and not one that calls the file damaged."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
from processes import run

import cylstm

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")

NAMES = ["m.safetensors", "m.npz", "m.pt", "m.onnx", "m.weights.h5", "m.keras"]
CODE = """
import os, pathlib, resource, sys, warnings
import numpy as np
import cylstm, cylstm.keras
from cylstm.cli.inspect import inspect_file
warnings.simplefilter("ignore")
path = pathlib.Path(sys.argv[-1])
reads = {"load": lambda: list(cylstm.load(path).parameters()), "inspect": lambda: inspect_file(path)}
if path.suffix == ".keras":
    reads["model"] = lambda: cylstm.keras.load_model(path).layers[-1].get_weights()
expected = {name: str(read()) for name, read in reads.items()}
page = os.sysconf("SC_PAGE_SIZE")
outcomes = set()
for name, read in reads.items():
    for extra in (*range(0, 4 << 20, 128 << 10), *range(4 << 20, 24 << 20, 1 << 20), 1 << 30):
        used = int(open("/proc/self/statm").read().split()[0]) * page
        resource.setrlimit(resource.RLIMIT_AS, (used + extra, -1))
        try:
            outcome = read()
        except MemoryError:
            outcome = "MemoryError"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        outcomes.add("read" if str(outcome) == expected[name] else outcome)
print(sorted(outcomes))
"""


@pytest.fixture
def lstm() -> cylstm.LSTM:
    return cylstm.LSTM(64, 200)


def written(lstm: cylstm.LSTM, path: Path) -> Path:
    """The file that is meant by this name."""
    if path.suffix == ".keras":
        import cylstm.keras as ck

        pytest.importorskip("h5py")
        ck.Sequential([ck.Input((3, 64)), ck.LSTM(200)]).save(path)
    elif path.suffix == ".pt":
        torch = pytest.importorskip("torch")
        torch.save(torch.nn.LSTM(64, 200).state_dict(), path)
    else:
        pytest.importorskip({".onnx": "onnx", ".h5": "h5py"}.get(path.suffix, "numpy"))
        cylstm.save(lstm, path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_memory_that_runs_out(name: str, lstm: cylstm.LSTM, tmp_path: Path) -> None:
    path = written(lstm, tmp_path / name)
    # Arrays in memory of their own: the limit is met by them too, not by the heap alone.
    code = f"import sys; sys.argv.append({str(path)!r})\n{CODE}"
    assert run(code, MALLOC_MMAP_THRESHOLD_="16384", MALLOC_TRIM_THRESHOLD_="0") == "['MemoryError', 'read']"


@pytest.mark.parametrize("name", NAMES)
def test_no_more_files_may_be_open(name: str, lstm: cylstm.LSTM, tmp_path: Path) -> None:
    path = written(lstm, tmp_path / name)
    code = f"""
import os, resource
import cylstm
read = lambda: cylstm.load({str(path)!r}, batch_first=True)
read()
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1,) * 2)
try:
    read()
except OSError as error:
    print(type(error).__name__, error.errno)
"""
    assert run(code) == f"OSError {errno.EMFILE}"
