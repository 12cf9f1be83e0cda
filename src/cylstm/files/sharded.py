"""Models in several files: an index in JSON names, for each tensor, the file beside it that holds the tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..words import quoted
from .container import Contents, Tensor, damaged, existing, parse_json, regular_size

ENDING = ".index.json"
MAX_INDEX = 10_000_000
#: Files that describe what their tensors are for, which an index does not.
_MODELS = (".onnx", ".keras", ".h5", ".hdf5")


def read(path: Path, read_file: Callable[[Path], Contents]) -> Contents:
    """The tensors of ``model.safetensors.index.json`` and the like, each from its own file.

    Parameters
    ----------
    path : Path
        The index.
    read_file : callable
        The reader of the files that it names.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing.
    ValueError
        If the index is damaged, names files of other folders or models, or a tensor that is not in its file.
    """
    shards: dict[str, Contents] = {}
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name, shard in _table(path).items():
        if shard not in shards:
            shards[shard] = read_file(existing(path.parent / shard))
            for key, text in shards[shard].metadata.items():  # of several texts none is right, which is found later
                metadata[key] = text if metadata.get(key, text) == text else f"{metadata[key]} or {text}"
        if name not in shards[shard].tensors:
            raise damaged(path, f"{quoted(shard)} must hold {quoted(name)}, got a file without it")
        tensors[name] = shards[shard].tensors[name]
    return Contents(tensors, metadata)


def files(path: Path) -> list[Path]:
    """The files that an index names; of any other file none.

    Raises
    ------
    ValueError
        If the index is damaged, or names files of other folders.
    """
    if not path.name.lower().endswith(ENDING):
        return []
    return [path.parent / shard for shard in dict.fromkeys(_table(path).values())]


def _table(path: Path) -> dict[str, str]:
    """The names of the tensors, and the file of each."""
    with open(path, "rb") as file:
        size = regular_size(file.fileno(), path)
        if size > MAX_INDEX:
            raise damaged(path, f"an index must have at most {MAX_INDEX} bytes, got {size}")
        table = parse_json(file.read(), path).get("weight_map")
    if not isinstance(table, dict):
        raise damaged(path, f"weight_map must be a table of names to files, got a {type(table).__name__}")
    for name, shard in table.items():
        if (
            not isinstance(shard, str)
            or shard in ("", "..")
            or {"/", "\\", "\0"} & set(shard)
            or Path(shard).name != shard
        ):
            raise damaged(path, f"the file of {quoted(name)} must be a name in the same folder, got {quoted(shard)}")
        if shard.lower().endswith(ENDING):
            raise damaged(path, f"the file of {quoted(name)} must hold tensors, got another index, {quoted(shard)}")
        if shard.lower().endswith(_MODELS):
            raise damaged(path, f"the file of {quoted(name)} must hold tensors, got a model, {quoted(shard)}")
    return table
