"""Parameters that PyTorch computes from others: what its state_dicts hold then, put together again.

A state_dict has ``_g`` and ``_v`` for ``torch.nn.utils.weight_norm``, ``original0`` and ``original1`` for that of
``parametrizations``; ``_orig``, ``_u``, ``_v`` or ``original``, ``0._u``, ``0._v`` for ``spectral_norm``; ``_orig`` and
``_mask`` for ``prune``; ``_raw`` for AWD-LSTM's weight drop. Here is computed what the module computes of them in
evaluation mode. The shapes tell the axes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.arguments import DTYPES
from ..words import listed

Shape = tuple[int, ...]

_FIELD = r"(?:weight_(?:ih|hh|hr|ch)|bias_(?:ih|hh))"
_RECURRENT = rf"{_FIELD}(?:_l\d{{1,6}}(?:_reverse)?)?"
_RECURRENT_ONLY = re.compile(rf".*?{_RECURRENT}", re.DOTALL)
#: The ends are those of a frozen module.
_PLAIN = re.compile(rf".*?{_RECURRENT}(?:_int8|_scale)?|(?:.*\.)?(?:weight|bias)", re.DOTALL)
#: A name that goes on after that of a parameter: of a recurrent one in any way, of others in the ways that are known.
_PARTS = (
    re.compile(rf"(.*?)parametrizations\.({_RECURRENT}|weight|bias)\.(.+)", re.DOTALL),
    re.compile(rf"(.*?)({_RECURRENT})_(.+)", re.DOTALL),
    re.compile(r"((?:.*\.)?)(weight|bias)_(g|v|u|orig|mask|raw)", re.DOTALL),
)


class Recipe(NamedTuple):
    """How a parameter comes of what is stored for it."""

    parts: tuple[str, ...]  # full names, in the order of the arguments
    compute: Callable[..., np.ndarray]
    shape: Shape
    refused: str = ""  # why it cannot be computed

    def refused_of(self, dtypes: Sequence[str]) -> str:
        """Why it cannot be computed of parts of these dtypes: a mask counts, all others are numbers of one kind."""
        if self.compute is _masked:
            fits = dtypes[0] in DTYPES and (dtypes[1] in DTYPES[:3] or dtypes[1].startswith(("bool", "int", "uint")))
        else:
            kinds = {dtype.startswith("complex") for dtype in dtypes}
            fits = set(dtypes).issubset(DTYPES) and (len(kinds) <= 1 or dtypes[0].startswith("complex"))
        if self.refused or fits:
            return self.refused
        return f"parts of dtypes {listed(dtypes)}: save the plain weight"


def recipes(shapes: Mapping[str, Shape]) -> dict[str, Recipe]:
    """What can be put together among the names of a state_dict, by the full name of the parameter.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of all arrays.
    """
    stored: dict[str, dict[str, str]] = {}  # parameter → kind of part → full name
    for name in shapes:
        if split := _split(name):
            full, part = split
            stored.setdefault(full, {})[part] = name
    made = {_inner(full, shapes): _recipe(full, parts, shapes) for full, parts in stored.items()}
    return {full: recipe for full, recipe in made.items() if recipe is not None}


def completed(
    state_dict: Mapping[str, Any], names: Iterable[str], as_array: Callable[[Any, str], np.ndarray]
) -> tuple[Mapping[str, Any], list[str]]:
    """The state_dict with what can be put together for these names, and an error for each that cannot."""
    names = set(names)
    if names.issuperset(state_dict):
        return state_dict, []
    shapes = {name: tuple(v.shape) for name, v in state_dict.items() if isinstance(name, str) and hasattr(v, "shape")}
    complete, errors = dict(state_dict), []
    for name, recipe in recipes(shapes).items():
        if name not in names:
            continue
        parts = [] if recipe.refused else [as_array(complete.pop(part), part) for part in recipe.parts]
        if refused := recipe.refused_of([part.dtype.name for part in parts]):
            errors.append(f"{name} must be a plain tensor, got {refused}.")
        else:
            complete[name] = recipe.compute(*parts)
    return complete, errors


def _split(name: str) -> tuple[str, str] | None:
    """The full name of the parameter and the part of it that this is; None for a parameter, and for other names."""
    if _PLAIN.fullmatch(name):
        return None
    for pattern in _PARTS:
        if match := pattern.fullmatch(name):
            return match[1] + match[2], match[3]
    return None


def _inner(full: str, shapes: Mapping[str, Shape]) -> str:
    """The parameter's name in the LSTM: fastai's weight drop keeps ``_raw`` outside of its ``module.``."""
    prefix, dot, parameter = full.rpartition(".")
    inner = f"{prefix}{dot}module."
    suffix = re.sub(_FIELD, "", parameter)
    outside = any(inner + field + suffix in shapes for field in ("weight_ih", "weight_hh", "bias_ih"))
    return inner + parameter if outside and f"{full}_raw" in shapes else full


def _recipe(full: str, parts: dict[str, str], shapes: Mapping[str, Shape]) -> Recipe | None:
    """The recipe for what is there under the name of one parameter; None where nothing is lost without one."""
    of = {part: shapes[name] for part, name in parts.items()}
    for kinds, (compute, check) in _KINDS.items():
        if of.keys() == set(kinds):
            first, *others = kinds
            return Recipe(
                tuple(parts[kind] for kind in kinds), compute, of[first], check(of[first], *(of[k] for k in others))
            )
    if full in shapes or not (_RECURRENT_ONLY.fullmatch(full) or of.keys() & _WEIGHTS):
        return None
    shape = next((of[part] for part in _WEIGHTS if part in of), ())
    there = listed([parts[part] for part in sorted(parts)], 10)
    return Recipe((), _unknown, shape, f"{there}, which cylstm cannot put together: save the plain weight")


def _check_norm(v: Shape, g: Shape) -> str:
    kept = [axis for axis, n in enumerate(g) if n != 1]
    fits = not g or (len(g) == len(v) and len(kept) <= 1 and all(g[axis] == v[axis] for axis in kept))
    return "" if fits else f"norms of shape {g} for a direction of shape {v}: write the file anew"


def _check_spectral(weight: Shape, u: Shape, v: Shape) -> str:
    if len(weight) != 2 or sorted((u, v)) != sorted(((weight[0],), (weight[1],))):
        return f"vectors of shapes {u} and {v} for a weight of shape {weight}: write the file anew"
    if weight[0] == weight[1]:
        return "a square weight with spectral_norm, for which shapes do not tell the axis: save the plain weight"
    return ""


def _check_mask(weight: Shape, mask: Shape) -> str:
    return "" if weight == mask else f"a mask of shape {mask} for a weight of shape {weight}: write the file anew"


def _normed(v: np.ndarray, g: np.ndarray) -> np.ndarray:
    """v scaled to the norms g; the norm is over the axes in which g has one element."""
    axes = tuple(axis for axis, n in enumerate(g.shape) if n == 1) if g.ndim else None
    wide = v.astype(np.result_type(v, np.float32))
    norm = np.sqrt(np.sum(np.square(np.abs(wide)), axis=axes, keepdims=g.ndim > 0))
    with np.errstate(divide="ignore", invalid="ignore"):  # a direction of zeros gives NaN, as in PyTorch
        return (wide * (g / norm)).astype(v.dtype)


def _spectral(weight: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The weight divided by the estimate of its largest singular value."""
    rows = weight if u.shape == weight.shape[:1] else weight.T  # dim=1 of torch.nn.utils.spectral_norm
    wide = rows.astype(np.result_type(weight, np.float32))
    return (weight / np.vdot(u, wide @ v)).astype(weight.dtype)


def _masked(weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return mask.astype(weight.dtype) * weight


def _raw(weight: np.ndarray) -> np.ndarray:
    return weight


def _unknown() -> np.ndarray:
    raise ValueError("a parameter must be plain or of a known parametrisation")


#: What is stored, in the order of the arguments: what computes the parameter, what is wrong with shapes.
_KINDS: dict[tuple[str, ...], tuple[Callable[..., np.ndarray], Callable[..., str]]] = {
    ("v", "g"): (_normed, _check_norm),
    ("original1", "original0"): (_normed, _check_norm),
    ("orig", "u", "v"): (_spectral, _check_spectral),
    ("original", "0._u", "0._v"): (_spectral, _check_spectral),
    ("orig", "mask"): (_masked, _check_mask),
    ("raw",): (_raw, lambda weight: ""),
}
#: Parts that hold a weight in some form.
_WEIGHTS = {part: None for kinds in _KINDS for part in kinds[:1]}
