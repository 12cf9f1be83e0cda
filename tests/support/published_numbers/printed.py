"""What a document prints, beside what cylstm gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Printed(NamedTuple):
    """One thing that a document prints."""

    what: str
    got: Any
    printed: Any  # numbers as nested lists; anything else must be equal

    def holds(self) -> bool:
        """Whether cylstm gives it, numbers to the last printed digit."""
        if not isinstance(self.printed, list):
            return type(self.got) is type(self.printed) and self.got == self.printed
        printed, got = np.array(self.printed), np.asarray(self.got)
        return got.shape == printed.shape and bool(np.allclose(got, printed, rtol=0, atol=5.1e-5))


Part = Callable[[Any], list[Printed]]
