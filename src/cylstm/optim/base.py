"""What the optimisers have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..arrays.arguments import as_array, on_host
from ..arrays.homes import lent
from ..nn.gradients import check_gradient
from ..nn.module import Module, exclusively
from ..nn.parameters import Snapshot

#: The gradients of one module: an array for each of its parameters, by name.
Grads = Mapping[str, Any]

Arrays = dict[str, np.ndarray]


class Optimizer:
    """What the optimisers have in common: modules, a learning rate, checked gradients, a state.

    A subclass names in ``_buffer_names`` the arrays that it keeps for each parameter, and defines ``_update``.
    """

    _buffer_names: tuple[str, ...] = ()

    def __init__(self, modules: Module | Iterable[Module], lr: float, **options: Any) -> None:
        self._options = options  # as given, for the repr
        self._modules = [modules] if isinstance(modules, Module) else list(modules)
        for module in self._modules:
            if not isinstance(module, Module):
                raise TypeError(
                    f"modules must be a module or several, as in {type(self).__name__}([lstm, head]), "
                    f"and not their parameters, got {type(module).__name__}"
                )
            if module.dtype.itemsize == 2:
                raise TypeError(
                    f"modules must have parameters of more than 16 bits, got {module.dtype}, too coarse for small "
                    f"steps: train in float32 (module.float()), then convert (module.to({module.dtype.name!r}))"
                )
        if not self._modules:
            raise ValueError("modules must hold at least one module, got none")
        if len(set(map(id, self._modules))) < len(self._modules):
            raise ValueError("modules must be different ones, got the same more than once")
        self.lr = lr
        self._steps = 0
        self._buffers = [
            {name: {buffer: np.zeros_like(array) for buffer in self._buffer_names} for name, array in named}
            for named in (module.named_parameters() for module in self._modules)
        ]

    def __repr__(self) -> str:
        options = {"lr": self.lr, **self._options}
        return f"{type(self).__name__}({self._modules}, {', '.join(f'{k}={v!r}' for k, v in options.items())})"

    @property
    def lr(self) -> float:
        """The learning rate. May be assigned at any time: a schedule is an assignment before each step."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self._lr = at_least_zero(lr, "lr")

    def step(self, grads: Grads | Iterable[Grads]) -> None:
        """Change the parameters of all modules by one step against the gradients.

        Parameters
        ----------
        grads : mapping of str to array, or an iterable of them
            For each module, in the order of the constructor, the gradient of every parameter by its name: what a
            pullback returns as ``parameters``. They are left as they are. Where those of a module lie on a GPU, the
            step is taken there: its parameters stay there, and are copied to the CPU when they are read.

        Raises
        ------
        TypeError
            If something is no mapping of names to arrays.
        RuntimeError
            If the gradients of a module or of a parameter are missing, a name is unknown, a shape or dtype is not
            that of the parameter, or the parameters are unlocked. Nothing has changed then.
        """
        given = listed(grads)
        if len(given) != len(self._modules):
            raise RuntimeError(
                f"grads must be the gradients of {len(self._modules)} modules, in the order of the constructor, "
                f"got those of {len(given)}"
            )
        with lent(array for each in given for array in each.values()):
            self._step(given)

    def _step(self, given: list[Grads]) -> None:
        for module in self._modules:
            module._store.refuse_if_frozen()
        read = list(map(_read, given, self._modules))  # what a caller's mapping does may wait for other locks
        with exclusively(self._modules) as parameters:
            checked = list(map(self._checked, read, (each.kept for each in parameters), self._buffers))
            # Everything is computed, and memory for it is there, before anything changes.
            beside = [_beside(each, arrays) for each, arrays in zip(checked, parameters, strict=True)]
            results = list(map(self._results, beside, checked, self._buffers))
            changes = [
                changed if _on_gpu(changed) else module._store.checked(changed)
                for module, (changed, _) in zip(self._modules, results, strict=True)
            ]
            for module, changed in zip(self._modules, changes, strict=True):
                (module._store.change_on_gpu if _on_gpu(changed) else module._store.change)(changed)
            self._buffers = [buffers for _, buffers in results]
            self._steps += 1

    def _checked(self, grads: Grads, parameters: Arrays, buffers: dict[str, Arrays]) -> Arrays:
        """The gradients of one module as arrays that fit its parameters."""
        for name, parameter in parameters.items():
            for buffer in buffers[name].values():
                if buffer.dtype != parameter.dtype:
                    raise RuntimeError(
                        f"the parameters have been converted from {buffer.dtype} to {parameter.dtype} since the "
                        "optimiser was made: make a new one"
                    )
        return {
            name: check_gradient(grads[name], f"the gradient of {name}", array.shape, array.dtype)
            for name, array in parameters.items()
        }

    def _results(
        self, parameters: Arrays, gradients: Arrays, buffers: dict[str, Arrays]
    ) -> tuple[Arrays, dict[str, Arrays]]:
        """Parameters and buffers of one module after the step."""
        changed, new_buffers = {}, {}
        for name, parameter in parameters.items():
            kept = (_as(gradients[name], buffer) for buffer in buffers[name].values())
            given = map(_real_items, (parameter, gradients[name], *kept))
            with np.errstate(all="ignore"):  # infinite or nan, as in PyTorch, rather than an error half way
                results = self._update(self._steps + 1, *given)
            arrays = [result.view(parameter.dtype).reshape(parameter.shape) for result in results]
            changed[name] = arrays[0]
            new_buffers[name] = dict(zip(buffers[name], arrays[1:], strict=True))
        return changed, new_buffers

    def _update(
        self, step: int, parameter: np.ndarray, gradient: np.ndarray, *buffers: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Step number `step`, from 1: new parameter and buffers. All arrays are 1-D and real; those given stay."""
        raise NotImplementedError

    def state_dict(self) -> Arrays:
        """A copy of the state by name: all arrays, so that ``numpy.savez(path, **state)`` and ``numpy.load`` keep it.

        Returns
        -------
        dict of str to numpy.ndarray
            ``lr``, ``step`` (how many were taken), and for each parameter of module number n the arrays
            ``n.parameter.buffer``, as in ``0.weight_ih_l0.exp_avg``, under PyTorch's names of the buffers.
        """
        state = {"lr": np.array(self.lr), "step": np.array(self._steps)}
        return state | {name: on_host(buffer).copy() for name, buffer in self._named_buffers()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state that an optimiser of this kind, for modules of the same shapes, had.

        Parameters
        ----------
        state_dict : mapping of str to array
            As `state_dict` returns it. The arrays are copied.

        Raises
        ------
        TypeError
            If it is no mapping, or a value is no array.
        RuntimeError
            If names are missing or unexpected, or a shape or dtype differs. Nothing is loaded then.
        ValueError
            If the learning rate or the number of steps is negative.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a mapping of names to arrays, got {type(state_dict).__name__}")
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        if missing or unexpected:
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(self).__name__}, nothing was loaded; "
                f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}"
            )
        loaded = {
            name: check_gradient(as_array(state_dict[name], name), name, array.shape, array.dtype)
            for name, array in own.items()
        }
        if loaded["step"] < 0:
            raise ValueError(f"step must be 0 or more, got {loaded['step']}")
        self.lr = float(loaded["lr"])
        self._steps = int(loaded["step"])
        for n, buffers in enumerate(self._buffers):
            for name, by_kind in buffers.items():
                by_kind.update({kind: loaded[f"{n}.{name}.{kind}"].copy() for kind in by_kind})

    def _named_buffers(self) -> Iterable[tuple[str, np.ndarray]]:
        for n, buffers in enumerate(self._buffers):
            for name, by_kind in buffers.items():
                for kind, buffer in by_kind.items():
                    yield f"{n}.{name}.{kind}", buffer


def _read(grads: Grads, module: Module) -> Arrays:
    """The gradients of one module as arrays on the CPU, one for each parameter."""
    names = list(module._store)
    missing = [name for name in names if name not in grads]
    unknown = [name for name in grads if name not in names]
    if missing or unknown:
        raise RuntimeError(
            "grads must be one gradient for each parameter, got others; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(map(str, unknown)) or 'none'}"
        )
    arrays = {name: as_array(grads[name], name, cuda=True) for name in names}
    if any(isinstance(array, np.ndarray) for array in arrays.values()):
        return {name: on_host(array) for name, array in arrays.items()}
    return arrays


def _on_gpu(arrays: Arrays) -> bool:
    return not isinstance(next(iter(arrays.values())), np.ndarray)


def _beside(gradients: Arrays, parameters: Snapshot) -> Arrays:
    """The parameters where the gradients lie."""
    if not _on_gpu(gradients):
        return parameters.arrays
    name, gradient = next(iter(gradients.items()))
    return parameters.beside(gradient, f"the gradient of {name}")


def _as(gradient: Any, array: Any) -> Any:
    """An array where the gradient lies."""
    if isinstance(gradient, np.ndarray):
        return on_host(array)
    return np.asarray(array, like=gradient)


def _real_items(array: np.ndarray) -> np.ndarray:
    """All numbers side by side, a complex one as two real ones; a view where the array is contiguous."""
    flat = array.reshape(-1)
    return flat.view(np.empty(0, flat.dtype).real.dtype)


def listed(grads: Grads | Iterable[Grads]) -> list[Grads]:
    """The gradients of each module, found to be mappings."""
    each_module = [grads] if isinstance(grads, Mapping) else list(grads)
    for each in each_module:
        if not isinstance(each, Mapping):
            raise TypeError(
                "grads must be a mapping of names to arrays for each module, such as the `parameters` of what a "
                f"pullback returns, got {type(each).__name__}"
            )
    return each_module


def at_least_zero(value: float, name: str) -> float:
    """The value as a float, found not to be negative."""
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}")
    return float(value)
