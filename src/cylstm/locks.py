"""Locks that survive a fork."""

import os
import threading
import weakref


class ForkSafe:
    """Has a re-entrant lock, which is free in the child of a fork, whoever held it in the parent.

    Enter it as ``with owner.lock:``. A block that forks releases the lock that it took.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        _owners.add(self)


_owners: weakref.WeakSet[ForkSafe] = weakref.WeakSet()


def _renew_locks() -> None:
    for owner in _owners:
        owner.lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # a lock that another thread held when the process forked is never released
    os.register_at_fork(after_in_child=_renew_locks)
