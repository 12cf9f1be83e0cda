"""What the examples share: the folder that they write to, and a word about a package that is missing."""

from __future__ import annotations

import argparse
from pathlib import Path

OUTPUT = Path("demo-output")
#: Packages of the extra `examples`, by what is imported; and others.
_EXTRA = {"matplotlib": "matplotlib", "sklearn": "scikit-learn", "statsmodels": "statsmodels", "tqdm": "tqdm"}
_OTHERS = {"dask": "'dask[array,distributed]'", "distributed": "'dask[array,distributed]'"}


def missing(error: ModuleNotFoundError) -> str:
    """What to say, and to install, where an example cannot import something."""
    name = (error.name or "").partition(".")[0]
    if name == "cylstm":
        return "cylstm must be installed: pip install . in the folder of the repository"
    if name in _EXTRA:
        return (
            f"the package {_EXTRA[name]} must be installed: pip install '.[examples]' in the folder of the repository, "
            f"or pip install {' '.join(_EXTRA.values())}"
        )
    return f"the package {name} must be installed: pip install {_OTHERS.get(name, name)}"


def add_output(parser: argparse.ArgumentParser) -> None:
    """The option ``-o``, the folder that an example writes to."""
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, default=OUTPUT, help=f"what is written goes there ({OUTPUT})"
    )
