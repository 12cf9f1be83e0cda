"""Calls are on one thread where processors are short, and on more again when there are some."""

from __future__ import annotations

import json
import os
import sys

import pytest
from processes import run

pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = [
    pytest.mark.names_backend("cython"),
    pytest.mark.skipif(sys.platform != "linux", reason="this system does not say which thread had a processor"),
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) == 1, reason="one processor alone"
    ),
]

#: Whether other threads than the caller had a processor meanwhile is what the kernel counts. The clock ends only
#: the waiting.
BEGIN = """
import json, os, subprocess, sys, time
import cylstm

def others_ns():
    tasks = (task for task in os.listdir("/proc/self/task") if int(task) != os.getpid())
    return sum(int(open(f"/proc/self/task/{task}/schedstat").read().split()[0]) for task in tasks)

def is_quiet():  # this thread runs, and no other of the machine wants a processor
    time.sleep(0.1)
    return open("/proc/loadavg").read().split()[3].startswith("1/")

def is_alone():
    before = others_ns()
    for _ in range(calls):
        lstm(x)
    return others_ns() == before

def within(seconds, happens):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return True
    return False

cylstm.set_num_threads(2)
"""
CROWDED = """
lstm, x, calls = cylstm.LSTM(64, 64, backend="cython"), cylstm.randn(50, 8, 64), 100
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * os.cpu_count())]
try:
    alone = within(60, is_alone)
finally:
    for process in busy:
        process.kill()
        process.wait()
quiet = within(5, is_quiet)
together = quiet and within(20, lambda: not is_alone())
print(json.dumps({"alone": alone, "quiet": quiet, "together": together}))
"""
ONE_PROCESSOR = """
lstm, x, calls = cylstm.LSTM(64, 256, backend="cython"), cylstm.randn(50, 16, 64), 10
everywhere = os.sched_getaffinity(0)

def allow(processors, threads):
    for thread in threads:
        os.sched_setaffinity(int(thread), processors)
    time.sleep(0.2)  # threads that wait for the next call are asleep

together = lambda: within(60, lambda: not is_alone())
before = together()
allow({max(everywhere)}, [os.getpid()])
others_free = together()
allow({max(everywhere)}, os.listdir("/proc/self/task"))
alone = is_alone()
allow(everywhere, os.listdir("/proc/self/task"))
print(json.dumps([before, others_free, alone, together()]))
"""
#: OpenMP then gives each thread one processor.
BOUND = """
lstm, x, calls = cylstm.LSTM(64, 256, backend="cython"), cylstm.randn(50, 16, 64), 10
print(within(60, lambda: not is_alone()))
"""


def test_short_calls_are_alone_while_the_machine_is_crowded_and_not_afterwards() -> None:
    found = json.loads(run(BEGIN + CROWDED))
    assert found["alone"]
    assert found["together"] or not found["quiet"]  # other work may make the machine a crowded one


def test_a_call_is_alone_where_all_processors_but_one_are_taken_from_the_program() -> None:
    assert json.loads(run(BEGIN + ONE_PROCESSOR)) == [True, True, True, True]


def test_threads_that_openmp_gives_a_place_take_part() -> None:
    assert run(BEGIN + BOUND, OMP_PROC_BIND="true") == "True"
