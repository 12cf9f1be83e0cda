"""``make keras-versions``: the files of every version of Keras that can be installed, read by this one.

Each version gets an environment of its own, .venv-keras-NAME, in which `tools/keras_models.py` writes an archive to
build/keras-versions, and `tools/keras_published.py` one to build/keras-versions/published. Then
tests/keras/test_versions.py runs on all of the first, and `tools/count_published.py` counts in the others. With
``--keep`` a few files of each layout go to tests/keras/data, for the ordinary tests. A version that this Python or
platform has no wheels for is left out, and named.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARCHIVES = ROOT / "build" / "keras-versions"
PUBLISHED = ARCHIVES / "published"
DATA = ROOT / "tests" / "keras" / "data"

#: The packages of each, and the module that is imported.
VERSIONS = {
    **{f"tf-2.{n}": ("keras", [f"tensorflow-cpu==2.{n}.*"]) for n in (12, 13, 14, 15)},
    "tf_keras-2.19": ("tf_keras", ["tensorflow-cpu==2.19.*", "tf_keras==2.19.*"]),
    **{
        f"keras-{n}": ("keras", [f"keras=={n}", "jax==0.4.30", "jaxlib==0.4.30", "numpy<2.1", "h5py", "packaging"])
        for n in ("3.0.5", "3.3.3", "3.6.0")
    },
    "keras-3.10": ("keras", ["keras==3.10.*", "jax", "numpy<2.3", "h5py"]),
    "keras-3": ("keras", ["keras", "jax", "h5py"]),
}
#: What is kept as test data: one or two kinds of file of each layout.
KEPT = {
    "tf-2.12": ["functional.keras", "plain.keras", "activations-hdf5.keras", "both-weights.h5", "old.h5"],
    "tf-2.15": ["activations.keras", "functional.h5", "both.h5", "plain.weights.h5"],
    "keras-3.0.5": ["functional.keras", "activations.keras", "plain.h5", "both.weights.h5"],
}


def write(name: str) -> bool:
    """Make the archives of one version. Whether it could be installed."""
    package, requirements = VERSIONS[name]
    environment = ROOT / f".venv-keras-{name}"
    python = environment / "bin" / "python"
    if not (environment / ".stamp").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        if subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=False).returncode:
            return False
        (environment / ".stamp").touch()
    variables = os.environ | {"KERAS_PACKAGE": package}
    variables.pop("PYTHONPATH", None)
    for script, folder in (("keras_models.py", ARCHIVES), ("keras_published.py", PUBLISHED)):
        command = [python, ROOT / "tools" / script, folder / f"{name}.zip"]
        subprocess.run(command, check=True, env=variables, stderr=subprocess.DEVNULL)
    return True


def keep(name: str) -> None:
    """Copy the files that are test data."""
    DATA.mkdir(exist_ok=True)
    with (
        zipfile.ZipFile(ARCHIVES / f"{name}.zip") as source,
        zipfile.ZipFile(DATA / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
    ):
        for member in ("expected.npz", *KEPT[name]):
            target.writestr(zipfile.ZipInfo(member), source.read(member), zipfile.ZIP_DEFLATED, 9)


def main() -> int:
    """Write, keep, test, count."""
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    missing = [name for name in VERSIONS if not write(name)]
    print(f"not installed here: {', '.join(missing) or 'none'}")
    if "--keep" in sys.argv:
        for name in KEPT:
            keep(name)
    variables = os.environ | {"CYLSTM_KERAS_ARCHIVES": str(ARCHIVES)}
    tests = ROOT / "tests" / "keras" / "test_versions.py"
    tested = subprocess.run([sys.executable, "-m", "pytest", "-q", tests], check=False, env=variables).returncode
    archives = [PUBLISHED / f"{name}.zip" for name in VERSIONS if name not in missing]
    command = [sys.executable, ROOT / "tools" / "count_published.py", *archives]
    return tested or subprocess.run(command, check=False, env=variables).returncode


if __name__ == "__main__":
    sys.exit(main())
