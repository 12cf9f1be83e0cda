"""Generators that are copied, pickled and forked: the stream goes on, whole."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import pytest
from processes import LIMIT

from cylstm import random


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_and_pickles_go_on_where_the_generator_is(seed, again):
    generator = random.Generator(seed)
    for n in (0, 3, 1000):
        random.randn(n, generator=generator)  # an odd number leaves half of a pair
        other = again(generator)
        assert other.initial_seed() == generator.initial_seed()
        assert random.randn(5, generator=other).tobytes() == random.randn(5, generator=generator).tobytes()
        assert other.get_state().tobytes() == generator.get_state().tobytes()
    random.rand(1, generator=other)
    assert other.get_state().tobytes() != generator.get_state().tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.forks
def test_a_fork_while_another_thread_draws():
    """No child hangs, and each finds the generator between two calls, not in the middle of one."""
    code = """
import os, threading, time
import cylstm
done = False
def draw():
    while not done:
        cylstm.rand(40_000)  # three chunks
def whole():
    state, replay = cylstm.random.get_rng_state().tobytes(), cylstm.random.Generator(0)
    for _ in range(500):
        if replay.get_state().tobytes() == state:
            return True
        cylstm.rand(40_000, generator=replay)
cylstm.manual_seed(0)
thread = threading.Thread(target=draw)
thread.start()
statuses = []
for _ in range(20):
    cylstm.manual_seed(0)
    time.sleep(0.001)
    child = os.fork()
    if child == 0:
        cylstm.LSTM(3, 5), cylstm.random.Generator().seed()
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
    cylstm.manual_seed(0)
    time.sleep(0.001)
    child = os.fork()
    if child == 0:
        os._exit(0 if whole() else 1)
    statuses.append(os.waitpid(child, 0)[1])
done = True
thread.join()
raise SystemExit(any(statuses))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=LIMIT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.forks
def test_a_fork_inside_of_a_draw_and_forks_of_many_threads():
    """The lock is re-entrant: what a draw calls may fork. Forks of several threads take turns."""
    code = """
import os, threading
from cylstm import random
generators = [random.Generator(n) for n in range(5)]
def fork():
    for _ in range(10):
        child = os.fork()
        if child == 0:
            os._exit(sum(len(random.rand(3, generator=g)) for g in generators) != 15)
        assert os.waitpid(child, 0)[1] == 0
with generators[0]._guard.lock:
    fork()
threads = [threading.Thread(target=fork) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=LIMIT)
