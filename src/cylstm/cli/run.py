"""``cylstm run``: an LSTM over a file of sequences that may be larger than memory.

The input is read in chunks of sequences and of time steps. The states are carried from one chunk of steps to the next,
so the result is that of one call. The results are memory-mapped, under temporary names, and moved into place when they
are complete.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backends import registry
from ..files import npz
from ..files.container import replaceable, replacing, unreadable
from ..files.formats import load
from ..nn.linear import Linear
from ..nn.lstm import LSTM
from ..progress import Progress
from .info import backend_info
from .sequences import FileArray, mapped_output

#: Size of a chunk of input and output where the caller does not choose.
CHUNK_BYTES = 16 << 20


class Input(NamedTuple):
    """What the input file holds."""

    input: np.ndarray | FileArray
    h_0: np.ndarray | None = None
    c_0: np.ndarray | None = None


class Chunks(NamedTuple):
    """How many steps of how many sequences are computed at a time."""

    steps: int
    sequences: int


class FileLayout(NamedTuple):
    """How the arrays lie in the files, and the views of them that are (T, B, ...) and (..., B, ...)."""

    unbatched: bool
    batch_first: bool

    def rows(self, array: np.ndarray) -> np.ndarray:
        """The view (T, B, features) of input or output."""
        return array[:, np.newaxis] if self.unbatched else array.swapaxes(0, 1) if self.batch_first else array

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Steps T and sequences B of an input of this shape."""
        if self.unbatched:
            return shape[0], 1
        return (shape[1], shape[0]) if self.batch_first else (shape[0], shape[1])

    def part(self, array: np.ndarray | FileArray, t: slice, b: slice) -> np.ndarray:
        """Some steps of some sequences of the input, as (T, B, I)."""
        axes = (t, None) if self.unbatched else (b, t) if self.batch_first else (t, b)
        if isinstance(array, FileArray):
            return self.rows(array.read(*axes))
        return self.rows(array[axes[0]] if self.unbatched else array[axes])

    def state(self, array: np.ndarray) -> np.ndarray:
        """The view (layers, B, features) of a state."""
        return array[:, np.newaxis] if self.unbatched else array

    def scores(self, array: np.ndarray) -> np.ndarray:
        """The view (B, scores) of the logits."""
        return array[np.newaxis] if self.unbatched else array


def run_file(
    model: Path,
    input_path: Path,
    output_path: Path | None = None,
    *,
    prefix: str = "",
    head: str | None = None,
    batch_first: bool | None = None,
    dtype: str | None = None,
    precision: str | None = None,
    chunk: int | None = None,
    batch_chunk: int | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run the LSTM of a model file over the sequences of an input file, on the backend in force.

    The arguments are those of ``cylstm run``.

    Returns
    -------
    dict
        What was computed, how fast, and by what, as plain data for JSON.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If a file or an option is missing or does not fit. Nothing is written then.
    """
    if output_path is not None and output_path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"output must end in .npy or .npz, got {str(output_path)!r}")
    lstm, linear = _load_model(model, prefix, head, dtype, precision)
    if batch_first is not None:
        lstm.batch_first = batch_first
    described = str(lstm)
    given = _read_input(input_path)
    _check_input(given, lstm, convert=dtype is not None)
    layout = FileLayout(unbatched=given.input.ndim == 2, batch_first=lstm.batch_first)
    T, B = layout.sizes(given.input.shape)
    chunks = plan_chunks(lstm, T, B, chunk=chunk, batch_chunk=batch_chunk)
    lstm.batch_first = False  # what it is called with from here on is time-major
    with _written(output_path, _result_shapes(lstm, linear, layout, T, B), lstm.dtype) as results:
        shapes = {name: list(array.shape) for name, array in results.items()}
        start = time.perf_counter()
        _compute(lstm, linear, given, results, layout, chunks, progress)
        seconds = time.perf_counter() - start
    chosen = registry.choose(dtype=lstm.dtype.name, projection=lstm.proj_size > 0, precision=lstm.precision)
    return {
        "model": str(model),
        "lstm": described,
        "dtype": lstm.dtype.name,
        "precision": lstm.precision,
        "input": str(input_path),
        "shape": list(given.input.shape),
        "output": None if output_path is None else str(output_path),
        "results": shapes,
        "sequences": B,
        "steps": T,
        "chunk": chunks._asdict(),
        "seconds": seconds,
        "sequences_per_second": B / seconds,
        "steps_per_second": T * B / seconds,
        "backend": backend_info(chosen),
    }


def plan_chunks(lstm: LSTM, T: int, B: int, *, chunk: int | None = None, batch_chunk: int | None = None) -> Chunks:
    """How to cut T steps of B sequences: as given, else into pieces of about :data:`CHUNK_BYTES`.

    Raises
    ------
    ValueError
        If a bidirectional LSTM should be cut in time: its second direction begins at the end of the sequence.
    """
    if chunk is not None and lstm.bidirectional:
        raise ValueError(
            f"--chunk must be left out for a bidirectional LSTM, which reads sequences from both ends, got {chunk}: "
            "use --batch-chunk to take fewer sequences at a time"
        )
    width = lstm.input_size + _features(lstm)
    rows = max(1, CHUNK_BYTES // (width * lstm.dtype.itemsize))
    # What follows one another in the file is taken together: whole sequences if batch_first, else whole steps.
    steps, sequences = chunk, batch_chunk
    if steps is None and lstm.bidirectional:
        steps = T
    if steps is None:
        steps = rows // (sequences or (1 if lstm.batch_first else max(B, 1)))
    steps = min(max(steps, 1), T)
    if sequences is None:
        sequences = rows // steps
    return Chunks(steps, min(max(sequences, 1), max(B, 1)))


def _features(lstm: LSTM) -> int:
    """D * R, the width of the output."""
    return (1 + lstm.bidirectional) * (lstm.proj_size or lstm.hidden_size)


def _load_model(
    model: Path, prefix: str, head: str | None, dtype: str | None, precision: str | None
) -> tuple[LSTM, Linear | None]:
    lstm = load(model, prefix)
    if not isinstance(lstm, LSTM):
        raise ValueError(f"{model} must hold an LSTM, got a {type(lstm).__name__}")
    linear = None if head is None else load(model, head)
    if linear is not None:
        if not isinstance(linear, Linear):
            raise ValueError(f"the head {head!r} must be a Linear, got an {type(linear).__name__}")
        if linear.in_features != _features(lstm):
            raise ValueError(
                f"the head {head!r} must take the {_features(lstm)} features of the LSTM, got {linear.in_features}"
            )
    for module in (lstm,) if linear is None else (lstm, linear):
        if not np.can_cast(module.dtype, dtype or lstm.dtype, "same_kind"):
            raise ValueError(f"parameters must be convertible to {dtype or lstm.dtype}, got {module.dtype}")
        module.to(dtype=dtype or lstm.dtype)
        if precision is not None:
            module.precision = precision
    return lstm.eval(), linear


def _read_input(path: Path) -> Input:
    extension = path.suffix.lower()
    if extension == ".npy":
        try:
            return Input(FileArray(path))
        except OSError:
            raise
        except Exception as error:  # ValueError, EOFError; of a damaged header OverflowError, SyntaxError, TokenError …
            raise unreadable(path, ".npy file", error) from error
    if extension == ".npz":
        tensors = npz.read(path).tensors
        if "input" not in tensors or ("h_0" in tensors) != ("c_0" in tensors):
            raise ValueError(f"{path} must hold the array input, and h_0 with c_0 or neither, got {', '.join(tensors)}")
        return Input(**{name: tensors[name].read() for name in Input._fields if name in tensors})
    raise ValueError(f"input must end in .npy or .npz, got {str(path)!r}")


def _check_input(given: Input, lstm: LSTM, *, convert: bool) -> None:
    """Whether input and states fit the LSTM, so that nothing is computed in vain."""
    x = given.input
    if x.ndim not in (2, 3) or x.shape[-1] != lstm.input_size:
        axes = "(B, T, I)" if lstm.batch_first else "(T, B, I)"
        raise ValueError(f"input must have shape {axes} or (T, I) with I = {lstm.input_size}, got {x.shape}")
    if not x.shape[1 if x.ndim == 3 and lstm.batch_first else 0]:
        raise ValueError(f"input must have sequences of one step or more, got {x.shape}")
    for name, array in given._asdict().items():
        if array is None:
            continue
        if array.dtype.newbyteorder("=") != lstm.dtype and not convert:
            raise ValueError(
                f"{name} must be {lstm.dtype}, as the model, got {array.dtype}: --dtype {lstm.dtype} converts it"
            )
        if not np.can_cast(array.dtype, lstm.dtype, "same_kind"):
            raise ValueError(f"{name} must be convertible to {lstm.dtype}, got {array.dtype}")
    if given.h_0 is not None and given.c_0 is not None:
        batch = () if x.ndim == 2 else (x.shape[0 if lstm.batch_first else 1],)
        layers = lstm.num_layers * (1 + lstm.bidirectional)
        h_0, c_0 = (layers, *batch, lstm.proj_size or lstm.hidden_size), (layers, *batch, lstm.hidden_size)
        if (given.h_0.shape, given.c_0.shape) != (h_0, c_0):
            raise ValueError(f"h_0 must have shape {h_0} and c_0 {c_0}, got {given.h_0.shape} and {given.c_0.shape}")


def _result_shapes(lstm: LSTM, head: Linear | None, layout: FileLayout, T: int, B: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all results as they lie in the file, the one for an ``.npy`` first."""
    layers = lstm.num_layers * (1 + lstm.bidirectional)
    batch = () if layout.unbatched else (B,)
    shapes: dict[str, tuple[int, ...]] = {
        "output": (B, T, _features(lstm))
        if layout.batch_first and not layout.unbatched
        else (T, *batch, _features(lstm)),
        "h_n": (layers, *batch, lstm.proj_size or lstm.hidden_size),
        "c_n": (layers, *batch, lstm.hidden_size),
    }
    return shapes if head is None else {"logits": (*batch, head.out_features), **shapes}


@contextmanager
def _written(path: Path | None, shapes: dict[str, tuple[int, ...]], dtype: np.dtype) -> Iterator[dict[str, np.ndarray]]:
    """Memory-mapped arrays to be filled inside the block, which go into the file at ``path`` if it ends well.

    An ``.npz`` takes all the arrays, an ``.npy`` the first of them; without a path there are none.
    """
    if path is None:
        yield {}
        return
    target, single = replaceable(path), path.suffix.lower() == ".npy"
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as folder:
        files = {name: Path(folder, f"{name}.npy") for name in list(shapes)[: 1 if single else None]}
        arrays: dict[str, np.ndarray] = {name: mapped_output(file, dtype, shapes[name]) for name, file in files.items()}
        yield arrays
        arrays.clear()  # closes the files
        with replacing(target) as temporary:
            if single:
                [file] = files.values()
                file.chmod(stat.S_IMODE(temporary.stat().st_mode))  # that of the file it takes the place of
                os.replace(file, temporary)
            else:
                with zipfile.ZipFile(temporary, "w") as archive:
                    for file in files.values():
                        archive.write(file, file.name)


def _compute(
    lstm: LSTM,
    head: Linear | None,
    given: Input,
    results: dict[str, np.ndarray],
    layout: FileLayout,
    chunks: Chunks,
    progress: bool | None,
) -> None:
    """Fill the results, chunk after chunk: all the steps of some sequences, then the next sequences."""
    T, B = layout.sizes(given.input.shape)
    output = layout.rows(results["output"]) if "output" in results else None
    logits = layout.scores(results["logits"]) if "logits" in results else None
    in_time = chunks.steps < T
    with Progress(T * B if in_time else B, "steps" if in_time else "sequences", shown=progress) as bar:
        for b in _slices(B, chunks.sequences):
            states: Any = _initial_states(given, lstm, layout, b)
            for t in _slices(T, chunks.steps):
                part = layout.part(given.input, t, b).astype(lstm.dtype, copy=False)
                part_of_output, states = lstm(part, states)
                if output is not None:
                    output[t, b] = part_of_output
                bar.advance(part.shape[1] * (part.shape[0] if in_time else 1))
            for name, state in zip(("h_n", "c_n"), states, strict=True):
                if name in results:
                    layout.state(results[name])[:, b] = state
            if head is not None and logits is not None:
                last = states[0][-(1 + lstm.bidirectional) :]  # of the last layer, each direction
                logits[b] = head(np.concatenate(last, axis=1))


def _initial_states(given: Input, lstm: LSTM, layout: FileLayout, b: slice) -> tuple[np.ndarray, np.ndarray] | None:
    if given.h_0 is None or given.c_0 is None:
        return None
    h_0, c_0 = (layout.state(state)[:, b].astype(lstm.dtype, copy=False) for state in (given.h_0, given.c_0))
    return h_0, c_0


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, total)) for begin in range(0, total, size))
