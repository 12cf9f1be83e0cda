"""Which of the names in a file are whose: modules by kind and prefix, and the one that is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..words import listed, quoted
from .container import Contents, Tensor

# How PyTorch names the parameters of each kind of module, after the prefix; and the ends of a frozen module's names.
_NAMES = {
    "LSTM": re.compile(
        r"(.*?)((?:weight_(?:ih|hh|hr|ch)|bias_ih|bias_hh)_l\d{1,6}(?:_reverse)?(?:_int8|_scale)?)", re.DOTALL
    ),
    "LSTMCell": re.compile(r"(.*?)((?:weight_(?:ih|hh|ch)|bias_ih|bias_hh)(?:_int8|_scale)?)", re.DOTALL),
    "Linear": re.compile(r"(|.*\.)(weight|bias)", re.DOTALL),
}


#: What DataParallel and torch.compile put into names.
_WRAPPERS = {"module", "_orig_mod"}


def is_parameter(name: str) -> bool:
    """Whether it is the name of a parameter of one of the kinds, after any prefix."""
    return any(pattern.fullmatch(name) for pattern in _NAMES.values())


def recurrent_prefix(name: str) -> str | None:
    """What stands before the name of a parameter of an LSTM or LSTMCell; None for other names."""
    match = _NAMES["LSTM"].fullmatch(name) or _NAMES["LSTMCell"].fullmatch(name)
    return match[1] if match else None


def find_modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, list[str]]]:
    """What could be made from the tensors: kind → prefix → names after the prefix.

    The kinds are LSTM, LSTMCell and Linear; "other" are recurrent layers that are not LSTMs.
    """
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in (*_NAMES, "other")}
    for full_name in tensors:
        for kind, pattern in _NAMES.items():
            if match := pattern.fullmatch(full_name):
                found[kind].setdefault(match[1], []).append(match[2])
    for kind, suffix in (("LSTM", "_l0"), ("LSTMCell", "")):
        for prefix, names in list(found[kind].items()):
            if f"weight_hr{suffix}" not in names and _gate_count(tensors.get(f"{prefix}weight_hh{suffix}")) in (1, 3):
                found["other"][prefix] = found[kind].pop(prefix)  # an RNN or a GRU
    for prefix in list(found["Linear"]):
        weight = tensors.get(f"{prefix}weight")
        if weight is None or len(weight.shape) != 2:  # a convolution, a norm …
            del found["Linear"][prefix]
    return found


def _gate_count(weight_hh: Tensor | None) -> int | None:
    """4 for an LSTM without projection, 3 for a GRU, 1 for an RNN."""
    if weight_hh is None or len(weight_hh.shape) != 2:
        return None
    rows, columns = weight_hh.shape
    return rows // columns if columns and rows % columns == 0 else None


def choose(contents: Contents, prefix: str, path: Path) -> tuple[str, str, list[str]]:
    """Kind, prefix and names of the one module that is meant."""
    found = find_modules(contents.tensors)
    exact, inside = {prefix, f"{prefix}."}, prefix if prefix.endswith(".") or not prefix else f"{prefix}."
    found["LSTM"] |= {refused: [] for refused in contents.refused}
    recurrent = bool(found["other"] or contents.others)
    for kind in _NAMES:
        if kind == "Linear" and recurrent and not prefix:
            continue  # it stands behind what cylstm does not compute: it is not what is meant, unless it is named
        candidates = {p: names for p, names in found[kind].items() if p in exact}
        candidates = candidates or {p: names for p, names in found[kind].items() if p.startswith(inside)}
        candidates = candidates or {p: names for p, names in found[kind].items() if _holds(p, inside)}
        if len(candidates) > 1:
            prefixes = listed(map(repr, candidates))
            raise ValueError(
                f"{path} must hold one {kind}, got {len(candidates)}: give the prefix of one of them: {prefixes}"
            )
        if candidates:
            [(found_prefix, names)] = candidates.items()
            if found_prefix in contents.refused:
                raise ValueError(f"{path}: {not_computed(at(found_prefix), contents.refused[found_prefix])}")
            return kind, found_prefix, names
    there = [f"{kind} {at(p)}" for kind in _NAMES for p in found[kind]]
    there += [f"an RNN or GRU, not an LSTM, {at(p)}" for p in found["other"]]
    there += [f"{what}, {at(p)}" for p, what in contents.others.items()]
    if not there:
        there = [f"{name} {tensor.shape}" for name, tensor in contents.tensors.items()]
    where = f" under the prefix {quoted(prefix)}" if prefix else ""
    raise ValueError(f"{path} must hold an LSTM, LSTMCell or Linear{where}, got {listed(there) or 'nothing'}")


def _holds(found: str, prefix: str) -> bool:
    """Whether a prefix stands anywhere in the one that was found, after ``state_dict.model.``, say."""
    within, sought = (".".join(p for p in one.split(".") if p not in _WRAPPERS) for one in (found, prefix))
    return bool(sought) and f".{sought}" in f".{within}"


def not_computed(which: str, reason: str) -> str:
    """The message for an LSTM that cylstm does not compute; the reason says what it is or has."""
    return f"the LSTM {which} must be one that cylstm computes, got one that {reason}"


def either(names: Iterable[str]) -> str:
    """The names as a choice: a, b or c."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def at(prefix: str) -> str:
    """Where a module is, in words."""
    return f"under the prefix {quoted(prefix)}" if prefix else "without a prefix"
