"""The variant ``persistent`` on the CPU: its kernels in configurations that are quick there, and on a small device."""

from __future__ import annotations

from typing import ClassVar

from cuda_host import HostDevice

from cylstm.backends.cupy_backend.persistent import Persistent
from cylstm.backends.cupy_backend.persistent.configurations import Option, Row


class HostPersistent(Persistent):
    """Few threads, and few sequences of a launch, so that there are several launches."""

    table: ClassVar[dict[int, tuple[Row, ...]]] = {
        2: (
            Row(32, (Option(8, 1, 1, 2),), (Option(8, 1, 2, 1),)),
            Row(160, (Option(16, 2, 2, 2),), (Option(16, 2, 2, 1),)),
        ),
        4: (
            Row(32, (Option(8, 1, 2, 2),), (Option(8, 1, 4, 1),)),
            Row(160, (Option(16, 2, 1, 2),), (Option(16, 2, 2, 1),)),
        ),
    }
    tries: ClassVar[int] = 100_000

    def __init__(self, device: HostDevice | None = None, *, tf32: bool = False) -> None:
        super().__init__(device or HostDevice(), tf32=tf32)
