"""The arguments that functions of CuPy have: a keyword of NumPy's that CuPy lacks is an error on a GPU alone.

What stands for CuPy in the tests refuses what is not listed here. A test holds the list to CuPy itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

#: The arguments of CuPy 14.2 by function; those of a ufunc are its keywords.
UFUNC = "out dtype"
ARGUMENTS = {
    "arange": "start stop step dtype",
    "array": "obj dtype copy order subok ndmin blocking",
    "asarray": "a dtype order copy blocking",
    "ascontiguousarray": "a dtype",
    "concatenate": "tup axis out dtype casting",
    "copyto": "dst src casting where",
    "empty": "shape dtype order",
    "empty_like": "prototype dtype order subok shape",
    "full": "shape fill_value dtype order",
    "linalg.norm": "x ord axis keepdims",
    "may_share_memory": "a b max_work",
    "ones": "shape dtype order",
    "stack": "tup axis out dtype casting",
    "zeros": "shape dtype order",
    "zeros_like": "a dtype order subok shape",
}
#: Of methods that are compiled, and whose signatures stand in their documentation.
METHODS = {
    "ndarray.astype": "dtype order casting subok copy",
    "ndarray.conj": "",
    "ndarray.copy": "order",
    "ndarray.fill": "value",
    "ndarray.get": "stream order out blocking",
    "ndarray.reshape": "*shape order copy",
    "ndarray.sum": "axis dtype out keepdims",
    "ndarray.swapaxes": "axis1 axis2",
    "ndarray.transpose": "*axes",
    "ndarray.view": "dtype type",
}


def check_call(name: str, args: Iterable[Any], kwargs: Iterable[str]) -> None:
    """Hold a call to the arguments that CuPy's function has."""
    if isinstance(getattr(np, name, None), np.ufunc):
        names, args = UFUNC.split(), ()
    else:
        given = (ARGUMENTS | METHODS).get(name)
        assert given is not None, f"{name} of CuPy is not listed in cupy_signatures.py: add it, as CuPy has it"
        names = given.split()
    beyond = [key for key in kwargs if key not in names]
    if beyond:
        raise TypeError(f"{name}() of CuPy got an unexpected keyword argument {beyond[0]!r}")
    if not any(key.startswith("*") for key in names) and len(list(args)) > len(names):
        raise TypeError(f"{name}() of CuPy takes {len(names)} arguments")
