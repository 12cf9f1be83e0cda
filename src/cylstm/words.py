"""Words for messages: articles, plurals, what others wrote, what to install. No other module knows these rules."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

#: What `pip install` takes for each package that is imported lazily, as in the extras of pyproject.toml.
REQUIREMENTS = {
    "h5py": "h5py>=3.11",
    "ml_dtypes": "ml_dtypes>=0.5",
    "onnx": "onnx>=1.21",
    "onnxruntime": "onnxruntime>=1.20",
    "torch": "torch",
}
#: How CuPy gets here, with the libraries of CUDA.
CUPY = "pip install 'cupy-cuda13x[ctk]>=14' (for a driver of CUDA 12, 'cupy-cuda12x[ctk]>=14')"
#: Capitals whose names begin with a vowel: an LSTM, an RNN, but a GRU.
_LIKE_VOWELS = "AEFHILMNORSX"
#: Of a text by somebody else, in characters: how much of its beginning and of its end a message has where it is longer.
_FIRST, _LAST = 200, 80


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


def named(text: str) -> str:
    """A text by somebody else, of any length and any letters: its beginning and its end, and nothing that steers."""
    return printable(text if len(text) <= _FIRST + _LAST else f"{text[:_FIRST]} … {text[-_LAST:]}")


def quoted(value: object) -> str:
    """The ``repr`` of a value by somebody else, likewise."""
    return named(repr(value))


def error_text(error: BaseException) -> str:
    """The type and message of an error that another package raised, in one line."""
    return f"{type(error).__name__}: {named(' '.join(str(error).split()))}"


def listed(texts: Iterable[str], at_most: int = 20) -> str:
    """The first of the texts, and how many more there are. A file may give names of any length and any letters."""
    texts = list(texts)
    return ", ".join(map(named, texts[:at_most])) + (
        f" and {len(texts) - at_most} more" if len(texts) > at_most else ""
    )
