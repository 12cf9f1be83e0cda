"""Locks that survive a fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any


class ForkSafe:
    """Has a re-entrant lock, which is free in the child of a fork, whoever held it in the parent.

    Enter it as ``with owner.lock:``. A block that forks releases the lock that it took.

    Parameters
    ----------
    fork_waits : bool
        Whether a fork waits until no other thread holds the lock, so that the child finds whole what it guards. For
        blocks that wait for nothing themselves. Otherwise the child gets a new lock.
    """

    __slots__ = ("__weakref__", "lock")

    def __init__(self, *, fork_waits: bool = False) -> None:
        self.lock = threading.RLock()
        if fork_waits:
            with _fork.lock:
                _fork.waits_for.add(self)
        else:
            _fork.renews.add(self)


class _Fork:
    """What happens to locks when the process forks."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # one fork at a time, and nobody new to wait for meanwhile
        self.waits_for: weakref.WeakSet[ForkSafe] = weakref.WeakSet()
        self.renews: weakref.WeakSet[ForkSafe] = weakref.WeakSet()
        self.taken: list[Any] = []

    def before(self) -> None:
        self.lock.acquire()
        for owner in list(self.waits_for):
            lock = owner.lock
            lock.acquire()
            self.taken.append(lock)

    def after_in_parent(self) -> None:
        while self.taken:
            self.taken.pop().release()
        self.lock.release()

    def after_in_child(self) -> None:
        for owner in self.renews:
            owner.lock = threading.RLock()
        self.after_in_parent()


_fork = _Fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)
