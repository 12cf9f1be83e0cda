"""PyTorch's storages and tensors, as their pickles describe them, and what else such a pickle names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..words import quoted
from .container import MAX_DIMENSIONS, Tensor, TensorFileError, is_size, widened
from .pickles import Known, Name, Table, Thing

#: PyTorch's dtype by the name of the class of its storages.
_OF_STORAGE = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
    "Untyped": "uint8",  # bytes
}
_OF_NUMPY = {"uint16", "uint32", "uint64"} | {name for name in _OF_STORAGE.values() if name[0] not in "bq"} | {"bool"}
_ITEMSIZE = {name: np.dtype(name).itemsize for name in _OF_NUMPY} | {"bfloat16": 2, "qint32": 4, "complex32": 4}


def itemsize(dtype: str) -> int:
    """Bytes of an element; of the dtypes that NumPy does not have, most have one (float8, the quantised ones)."""
    return _ITEMSIZE.get(dtype, 1)


class Storage(NamedTuple):
    """A part of the elements that lie behind each other in a file."""

    key: str
    dtype: str
    begin: int  # in elements
    length: int


class Extents(NamedTuple):
    """The storages of a file."""

    sizes: Mapping[str, int]  # key → bytes
    read: Callable[[str], bytes | memoryview]


class Stored(NamedTuple):
    """A tensor: which elements of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    flags: frozenset[str] = frozenset()  # "conj", "neg": what PyTorch does when it reads an element

    @property
    def nbytes(self) -> int:
        """Of the tensor; a storage that strides read again and again has fewer."""
        return math.prod(self.shape) * itemsize(self.dtype)

    def tensor(self, extents: Extents, name: str, refused: str = "") -> Tensor:
        """As one tensor of a file. Raises ValueError where storage and file do not fit together."""
        storage, width = self.storage, itemsize(self.storage.dtype)
        if (size := extents.sizes.get(storage.key)) is None or size < (storage.begin + storage.length) * width:
            raise ValueError(f"the data of {quoted(name)} must have {storage.length * width} bytes or more, got {size}")
        last = self.offset + sum(stride * (n - 1) for n, stride in zip(self.shape, self.strides, strict=True))
        if all(self.shape) and (last + 1) * itemsize(self.dtype) > storage.length * width:
            raise ValueError(f"{quoted(name)} must end within its storage of {storage.length}, got element {last}")
        dtype = "float32" if self.dtype == "bfloat16" else self.dtype
        return Tensor(dtype, self.shape, partial(self.array, extents, name), refused=refused)

    def array(self, extents: Extents, name: str) -> np.ndarray:
        """Its elements, of bfloat16 as float32."""
        if self.dtype not in _OF_NUMPY and self.dtype != "bfloat16":
            raise TensorFileError(
                f"{quoted(name)} must be of a dtype that NumPy has, got {self.dtype}: convert it first"
            )
        dtype = np.dtype("<u2" if self.dtype == "bfloat16" else self.dtype)
        begin = self.storage.begin * itemsize(self.storage.dtype) + self.offset * dtype.itemsize
        steps = [stride * dtype.itemsize for stride in self.strides]
        if not all(self.shape):
            return np.zeros(self.shape, dtype)
        array = np.ndarray(self.shape, dtype, extents.read(self.storage.key), begin, steps)
        array = widened(array) if self.dtype == "bfloat16" else array
        array = array.conj() if "conj" in self.flags else array
        return np.negative(array) if "neg" in self.flags else array


def dtype_of_storage(name: str) -> str:
    """PyTorch's dtype of the elements of ``torch.FloatStorage`` and the like, on any device."""
    module, _, cls = name.rpartition(".")
    dtype = _OF_STORAGE.get(cls.removesuffix("Storage"))
    if module not in ("torch", "torch.cuda", "torch.storage") or dtype is None or not cls.endswith("Storage"):
        raise ValueError(f"a storage must be of a type of PyTorch, got {name:.200}")
    return dtype


# What pickles name ----------------------------------------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *, dtype: str = "", metadata: Any = None) -> Stored:
    if not isinstance(storage, Storage) or not is_size(offset):
        raise ValueError("a tensor must have a storage and an offset, got others")
    for sizes in (shape, strides):
        if not isinstance(sizes, (tuple, list)) or len(sizes) > MAX_DIMENSIONS or not all(map(is_size, sizes)):
            raise ValueError(f"a tensor must have a shape and strides of at most {MAX_DIMENSIONS} sizes, got others")
    if len(shape) != len(strides):
        raise ValueError(f"a tensor of {len(shape)} dimensions must have as many strides, got {len(strides)}")
    flags = []
    for key, value in metadata.pairs if isinstance(metadata, Table) else ():
        if not isinstance(key, str) or key not in ("conj", "neg") or not isinstance(value, bool):
            raise ValueError(f"the metadata of a tensor must be conj and neg, got {quoted(key)}")
        flags += [key] * value
    return Stored(storage, offset, tuple(shape), tuple(strides), dtype or storage.dtype, frozenset(flags))


def _rebuild_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Stored:
    return _tensor(storage, offset, shape, strides, metadata=metadata)


def _rebuild_v3(*fields: Any) -> Stored:
    storage, offset, shape, strides, _, _, dtype, *metadata = fields
    if not isinstance(dtype, Name) or not dtype.text.startswith("torch."):
        raise ValueError("a tensor must have a dtype of PyTorch, got another one")
    return _tensor(
        storage, offset, shape, strides, dtype=dtype.text.removeprefix("torch."), metadata=(*metadata, None)[0]
    )


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Any:
    return data


def _rebuild_from_type(function: Any, cls: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a subclass, or with attributes of its own: the same tensor where the class is PyTorch's."""
    plain = isinstance(cls, Name) and cls.text in ("torch.Tensor", "torch.nn.parameter.Parameter")
    known = isinstance(function, Name) and function.text in _TENSORS
    if plain and known and isinstance(arguments, tuple):
        return _TENSORS[function.text](*arguments)
    return Thing(cls.text if isinstance(cls, Name) else "a class of the file", arguments, state)


def _table(pairs: Any = ()) -> Table:
    table = Table()
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise ValueError("a dict must be made of pairs, got something else")
    table.pairs = [(key, value) for key, value in pairs]
    return table


def _sequence(values: Any = ()) -> Any:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"a list must be made of values, got a {type(values).__name__}")
    return values


_TENSORS: Known = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
#: All that is made. Whatever else a pickle names becomes a `Thing`, which stands there and does nothing.
KNOWN: Known = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "collections.OrderedDict": _table,
    "collections.defaultdict": lambda factory=None, pairs=(): _table(pairs),
    "torch.Size": _sequence,
    "builtins.list": _sequence,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "__builtin__.set": _sequence,
    "__builtin__.frozenset": _sequence,
    "torch.jit._pickle.restore_type_tag": lambda value, tag: value,
    "torch.jit._pickle.build_intlist": _sequence,
    "torch.jit._pickle.build_doublelist": _sequence,
    "torch.jit._pickle.build_boollist": _sequence,
    "torch.jit._pickle.build_tensorlist": _sequence,
}
