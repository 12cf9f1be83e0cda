"""What the tests of LSTMCell and Linear compare with PyTorch's, and how."""

from __future__ import annotations

import numpy as np
import torch

TOLERANCE = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-13, "complex64": 4e-6, "complex128": 1e-13}

#: Of the constructor: two sizes, bias, device, dtype.
WRONG_ARGUMENTS = [
    (-1, 3),
    (4, -1),
    (4.0, 3),
    (4, 3.0),
    ("4", 3),
    (None, 3),
    (4,),
    (4, 3, True, None, torch.int32),
    (4, 3, True, "nowhere"),
]


def close(mine: np.ndarray, yours: torch.Tensor, dtype: str = "float32") -> None:
    """Equal up to rounding, in the same shape and dtype."""
    yours = yours.detach().resolve_conj().numpy()
    assert mine.dtype == yours.dtype
    assert mine.shape == yours.shape
    np.testing.assert_allclose(mine, yours, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
