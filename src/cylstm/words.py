"""Words for messages: articles, plurals, names out of files, and what to install. No other module knows these rules."""

from __future__ import annotations

import shlex

#: What `pip install` takes for each package that is imported lazily, as in the extras of pyproject.toml.
REQUIREMENTS = {
    "h5py": "h5py>=3.11",
    "ml_dtypes": "ml_dtypes>=0.5",
    "onnx": "onnx>=1.17",
    "onnxruntime": "onnxruntime>=1.20",
    "torch": "torch",
}
#: How CuPy gets here, with the libraries of CUDA.
CUPY = "pip install 'cupy-cuda13x[ctk]>=14' (for a driver of CUDA 12, 'cupy-cuda12x[ctk]>=14')"
#: Capitals whose names begin with a vowel: an LSTM, an RNN, but a GRU.
_LIKE_VOWELS = "AEFHILMNORSX"


def needs(what: str, package: str) -> str:
    """The message of an ImportError for a package that is not installed; `what` is a plural."""
    return f"{what} need the package {package}: pip install {shlex.quote(REQUIREMENTS[package])}"


def with_article(name: str) -> str:
    """A name with the article that it is read with: an LSTM, a Linear, an Embedding."""
    spelled = len(name) > 1 and name[:2].isupper()
    vowel = name[:1] in _LIKE_VOWELS if spelled else name[:1].lower() in "aeio"
    return f"{'an' if vowel else 'a'} {name}"


def counted(number: int, unit: str) -> str:
    """A number with its unit, which is in the plural but for 1: 1 step, 1,000 steps, 2 more arrays."""
    return f"{number:,} {unit if number == 1 else f'{unit}s'}"


def printable(text: str) -> str:
    """A text out of a file with what would steer a terminal escaped: control characters and marks of direction."""
    return "".join(
        one if one.isprintable() or one == " " else one.encode("unicode_escape").decode("ascii") for one in text
    )
