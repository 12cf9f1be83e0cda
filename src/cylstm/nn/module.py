"""`Module`, the base of what has parameters: ``state_dict``, training mode, conversions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ..arrays.arguments import DTYPES, as_dtype, check_device
from ..backends.precision import DEFAULT, check_precision, in_force
from .frozen import SCALE, VALUES, FrozenArrays, converted, is_frozen, loaded
from .parameters import ParameterStore, Snapshot, locked
from .reparametrised import completed


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` returns, as in PyTorch."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not any(self):
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Module:
    """What LSTM, LSTMCell and Linear have in common: parameters by PyTorch's names, and a training mode.

    A subclass sets its own attributes, then calls ``super().__init__``; it defines ``_initial_parameters`` and
    ``extra_repr``, and names in ``_fixed`` the attributes that cannot change once the parameters have their shapes.

    Parameters
    ----------
    device : None, str or torch.device
        The CPU.
    dtype : dtype, optional
        float16, bfloat16 (with ml_dtypes), float32 (default), float64, complex64 or complex128: NumPy or PyTorch dtype,
        name or type.
    precision : {"float32", "bfloat16", "int8"}, optional
        See `precision`.
    """

    training: bool
    _device: str  # that computes; the parameters are on the CPU
    _devices: ClassVar[tuple[str, ...]] = ("cpu",)  # the kinds of it that the module knows
    _fixed: ClassVar[frozenset[str]] = frozenset()
    _precision: str | None = None  # the caller's choice
    _store: ParameterStore
    #: Imports `cylstm.torch`. The package sets it: imports run one way, and the bridge stands on the modules.
    _torch_bridge: ClassVar[Callable[[], Any]]

    def __init__(self, *, device: Any = None, dtype: Any = None, precision: str | None = None) -> None:
        self._device = check_device(device, self._devices)
        self.training = True
        dtype = as_dtype(dtype)
        self._precision = check_precision(precision, dtype)
        given = self.__dict__.pop("_given", None)  # arrays of `_of`, handed past the constructor of the subclass
        if isinstance(given, FrozenArrays):
            self._store = ParameterStore(given, adopt=True, frozen=True)
            return
        arrays = self._initial_parameters(dtype) if given is None else dict(given)
        self._store = ParameterStore({name: array.astype(dtype, copy=False) for name, array in arrays.items()})

    @classmethod
    def _of(cls, arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]], **options: Any) -> Self:
        """A module with the parameters of `arrays`, in PyTorch's order. No random number is drawn.

        `FrozenArrays` make a frozen one. The options are the arguments of the constructor, which checks them before it
        takes an array from an iterator.
        """
        module = cls.__new__(cls)
        module.__dict__["_given"] = arrays
        cls.__init__(module, **options)
        return module

    def _initial_parameters(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Freshly drawn parameters in PyTorch's order."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What stands between the parentheses of the ``repr``."""
        raise NotImplementedError

    def __repr__(self) -> str:
        precision = "" if self.precision == DEFAULT else f", precision={self.precision!r}" + ", frozen" * self.frozen
        return f"{type(self).__name__}({self.extra_repr()}{precision})"

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters."""
        return self._store.dtype

    @property
    def precision(self) -> str:
        """How float32 parameters are prepared and computed: ``"float32"``, ``"bfloat16"`` or ``"int8"``.

        Arrays that go in and come out are float32 in any case, and so are the parameters. The other two are for
        inference only. It can be set at any time; None gives it back to ``CYLSTM_PRECISION``, else to ``"float32"``.

        Raises
        ------
        TypeError, ValueError
            If what is set is no precision, or one that parameters of this dtype do not have.
        BackendError
            If the backend of the module does not compute in it. It stays as it was then.
        """
        return in_force(self._precision, self.dtype)

    @precision.setter
    def precision(self, precision: str | None) -> None:
        if self.frozen:
            if check_precision(precision, self.dtype) == self._precision:
                return
            raise RuntimeError(
                f"precision must be {self._precision!r}, for the module is frozen, got {precision!r}: make a new "
                "module of float32 parameters"
            )
        self._check_precision(check_precision(precision, self.dtype))
        with exclusively([self]):
            self._precision = check_precision(precision, self.dtype)
            self._store.renew()  # after it: who sees the new version sees the new precision

    @property
    def frozen(self) -> bool:
        """Whether the module has rounded parameters alone; see `LSTM.freeze`."""
        return self._store.frozen

    def _check_precision(self, precision: str | None) -> None:
        """Raise where the module cannot be computed in this precision."""

    def __getattr__(self, name: str) -> np.ndarray:
        store = self.__dict__.get("_store")
        if store is not None and name in store:
            return store[name]
        if store is not None and name + VALUES in store:
            raise AttributeError(f"the module is frozen: it has {name + VALUES} and {name + SCALE} instead of {name}")
        if hasattr(type(self), name):  # a property, whose own error says what was missing
            return object.__getattribute__(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        store = self.__dict__.get("_store")
        if store is not None and (name in store or name + VALUES in store):
            store.replace({name: value})
        elif store is not None and name in self._fixed:
            raise AttributeError(
                f"{name} is fixed, for the parameters have their shapes: make a new {type(self).__name__}"
            )
        else:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._store]

    def __getstate__(self) -> dict[str, Any]:
        """Configuration and arrays alone, for pickle and copy."""
        return {**self.__dict__, "_store": dict(self._store.snapshot.arrays)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the arrays as they are where nobody can write to them (read-only memory maps, say), else copies."""
        arrays = state["_store"]
        self.__dict__.update(state, _store=ParameterStore(arrays, adopt=True, frozen=is_frozen(arrays)))

    def parameters(self) -> Iterator[np.ndarray]:
        """The parameters in PyTorch's order, as locked arrays."""
        return iter(self._store.snapshot.arrays.values())

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        """Names and parameters; with a prefix, the names are ``prefix.name``."""
        dot = f"{prefix}." if prefix else ""
        return ((dot + name, array) for name, array in self._store.snapshot.arrays.items())

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters by name, as locked arrays, which a later change of the module leaves as they are."""
        return dict(self._store.snapshot.arrays)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Replace the parameters by those of a mapping, converted to the module's dtype.

        A frozen module takes the ``state_dict`` of one that is frozen alike, and nothing is converted.

        Parameters
        ----------
        state_dict : mapping of str to array
            NumPy arrays, PyTorch tensors (of any device) or other arrays. What `torch.nn.utils.weight_norm`,
            ``spectral_norm`` and ``prune`` keep in place of a parameter is put together.
        strict : bool
            Whether missing and unexpected keys are errors. Wrong shapes always are.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        TypeError
            If it is no mapping.
        RuntimeError
            If keys are missing or unexpected, or shapes or values do not fit: all of them in one message. Nothing is
            loaded then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a mapping of names to arrays, got {type(state_dict).__name__}")
        state_dict, errors = completed(state_dict, self._store, loaded)
        missing = [name for name in self._store if name not in state_dict]
        unexpected = [name for name in state_dict if name not in self._store]
        arrays = {}
        if strict and missing:
            errors.append(f"Missing key(s) in state_dict: {', '.join(map(repr, missing))}.")
        if strict and unexpected:
            errors.append(f"Unexpected key(s) in state_dict: {', '.join(map(repr, unexpected))}.")
        for name, old in self._store.snapshot.arrays.items():
            if name in state_dict:
                try:
                    array = loaded(state_dict[name], name)
                except TypeError as error:
                    errors.append(str(error))
                    continue
                if array.shape != old.shape:
                    errors.append(f"size mismatch for {name}: expected shape {old.shape}, got {array.shape}.")
                elif self.frozen and array.dtype != old.dtype:
                    errors.append(f"{name} must be of dtype {old.dtype} in a frozen module, got {array.dtype}.")
                else:
                    arrays[name] = converted(array, old.dtype)
        if errors:
            listed = "\n\t".join(errors)
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(self).__name__}, nothing was loaded:\n\t{listed}"
            )
        if self.frozen:
            self._store.freeze({**self._store.snapshot.arrays, **arrays})
        else:
            self._store.replace(arrays)
        return IncompatibleKeys(missing, unexpected)

    @contextmanager
    def unlocked(self) -> Iterator[dict[str, np.ndarray]]:
        """Writable copies of the parameters by name, which become the parameters when the block ends.

        An exception inside the block leaves the parameters as they were. The module cannot be called inside the block
        by the same thread, for it would not see the changes yet.

        Examples
        --------
        >>> with lstm.unlocked() as params:  # doctest: +SKIP
        ...     params["bias_ih_l0"][:] = 0
        """
        with self._store.unlocked() as params:
            yield params

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as PyTorch does."""
        with exclusively([self]):  # refused before anything is drawn where the parameters are unlocked
            self._store.replace(self._initial_parameters(self.dtype))

    @classmethod
    def from_torch(cls, module: Any, *, backend: Any = None) -> Self:
        """A module with the options, a copy of the parameters, and the mode of PyTorch's module of the same name.

        Parameters
        ----------
        module : torch.nn.Module
            On any device; parametrised or a drop-in of `cylstm.torch` too.
        backend : str or Backend, optional
            The backend of an LSTM or LSTMCell.

        Raises
        ------
        TypeError
            If it is another module, or a backend is named for a Linear.
        RuntimeError
            If its dtype is none of cylstm's.
        """
        converted = cls._torch_bridge().from_torch(module, backend=backend)
        if not isinstance(converted, cls):
            raise TypeError(f"module must be a torch.nn.{cls.__name__}, got {type(module).__name__}")
        return converted

    def to_torch(self) -> Any:
        """PyTorch's module of the same name with the options, a copy of the parameters, and the mode of this one.

        Raises
        ------
        RuntimeError
            If this one is frozen.
        """
        return type(self)._torch_bridge().to_torch(self)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, in which dropout is applied."""
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {type(mode).__name__}")
        self.training = mode
        return self

    def eval(self) -> Self:
        """Leave the training mode."""
        return self.train(False)

    def to(self, *args: Any, device: Any = None, dtype: Any = None) -> Self:
        """Convert the parameters: ``to(dtype)``, ``to(device)``, ``to(device, dtype)``, ``to(array)`` as in PyTorch.

        Raises
        ------
        TypeError
            If the dtype is not floating point or complex.
        ValueError
            If the module has a precision, which parameters of this dtype do not have.
        RuntimeError
            If the device is not the CPU.
        """
        for value in args:
            if _means_dtype(value):
                dtype = value
            elif hasattr(value, "dtype"):
                dtype = value.dtype
            else:
                device = value
        if dtype is not None:
            try:
                dtype = as_dtype(dtype)
            except RuntimeError as error:
                raise TypeError(str(error)) from None
            check_precision(self._precision, dtype)
        if device is not None and (name := check_device(device, self._devices)) != self._device:
            self._move(name)
        if dtype is not None:
            self._store.astype(dtype)
        return self

    def _move(self, device: str) -> None:
        """Compute on another device, of those that the module knows."""
        with exclusively([self]):
            self._device = device
            self._store.renew()

    def cpu(self) -> Self:
        """Compute on the CPU, where the parameters are in any case."""
        return self.to("cpu")

    def cuda(self, device: int = 0) -> Self:
        """Compute on the NVIDIA GPU of this number."""
        return self.to(f"cuda:{device}")

    def children(self) -> Iterator[Module]:
        """The modules inside this one: none."""
        return iter(())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: a pullback returns gradients, and nothing keeps or adds them up."""

    def half(self) -> Self:
        """Convert the parameters to float16."""
        return self.to(dtype=np.float16)

    def bfloat16(self) -> Self:
        """Convert the parameters to bfloat16, which needs the package ml_dtypes."""
        return self.to(dtype="bfloat16")

    def float(self) -> Self:
        """Convert the parameters to float32."""
        return self.to(dtype=np.float32)

    def double(self) -> Self:
        """Convert the parameters to float64."""
        return self.to(dtype=np.float64)


@contextmanager
def exclusively(modules: Sequence[Module], *, frozen: bool = False) -> Iterator[list[Snapshot]]:
    """The parameters of each module, which nobody else changes inside the block.

    Raises
    ------
    RuntimeError
        If the parameters of one of them are unlocked; or frozen, but where `frozen` allows it.
    """
    stores = [module._store for module in modules]
    with locked(stores, frozen=frozen):
        yield [store.snapshot for store in stores]


def _means_dtype(value: Any) -> bool:
    return isinstance(value, (np.dtype, type)) or type(value).__name__ == "dtype" or value in DTYPES
