"""Score one batch by many workers: threads, processes that are forked or spawned, and joblib. The bits are the same.

A module is handed to a worker like any other argument: what is pickled is its configuration and its arrays. Run it from
anywhere, with joblib installed beside cylstm::

    python examples/many_workers.py

It prints what each engine takes for the whole batch, and how many threads cylstm takes in each worker: workers divide
the processors, they do not multiply them. The exit status is 1 if a result differs in a single bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import NamedTuple

from settings import missing

try:
    import joblib
    import numpy as np
    from tqdm import tqdm

    import cylstm
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

SECONDS = 120  # after which a worker that does not answer is given up


class Scored(NamedTuple):
    """What a worker gives back for its part of the batch."""

    last: np.ndarray  # (B, H)
    threads: int  # that cylstm may take in this worker
    worker: tuple[int, int]  # process and thread


def score(lstm: cylstm.LSTM, batch: np.ndarray) -> Scored:
    """The last hidden state of each sequence of a batch (B, T, I)."""
    _, (h_n, _) = lstm(batch)
    return Scored(h_n[-1], cylstm.get_num_threads(), (os.getpid(), threading.get_ident()))


def by_threads(lstm: cylstm.LSTM, batches: list[np.ndarray], workers: int) -> list[Scored]:
    """A thread pool of the standard library: calls release the GIL, and the module is shared."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(score, [lstm] * len(batches), batches, timeout=SECONDS))


def by_processes(method: str) -> Callable[[cylstm.LSTM, list[np.ndarray], int], list[Scored]]:
    """A process pool of the standard library, its processes started by this method."""

    def run(lstm: cylstm.LSTM, batches: list[np.ndarray], workers: int) -> list[Scored]:
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            return list(pool.map(score, [lstm] * len(batches), batches, timeout=SECONDS))

    return run


def by_joblib(backend: str) -> Callable[[cylstm.LSTM, list[np.ndarray], int], list[Scored]]:
    """joblib, which maps large arrays into its processes instead of copying them."""

    def run(lstm: cylstm.LSTM, batches: list[np.ndarray], workers: int) -> list[Scored]:
        parallel = joblib.Parallel(n_jobs=workers, backend=backend, timeout=SECONDS)
        return parallel(joblib.delayed(score)(lstm, batch) for batch in batches)

    return run


def engines() -> Iterator[tuple[str, Callable[[cylstm.LSTM, list[np.ndarray], int], list[Scored]]]]:
    """Name and function of each engine that there is on this system."""
    yield "thread pool", by_threads
    for method in multiprocessing.get_all_start_methods():
        yield f"processes, {method}", by_processes(method)
    for backend in ("loky", "threading"):
        yield f"joblib, {backend}", by_joblib(backend)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="threads or processes (2)")
    parser.add_argument("--sequences", type=int, default=2048, help="in the batch, of 50 steps each (2048)")
    parser.add_argument("--hidden-size", type=int, default=128, help="of the two layers (128)")
    arguments = parser.parse_args()

    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(16, arguments.hidden_size, num_layers=2, batch_first=True)
    whole = cylstm.randn(arguments.sequences, 50, 16)
    batches = np.array_split(whole, 4 * arguments.workers)
    expected = score(lstm, whole).last

    print(f"{'engine':22} {'seconds':>8} {'workers':>8} {'threads at most':>16}  same bits")
    same = True
    for name, run in (progress := tqdm(list(engines()), unit="engine", leave=False)):
        progress.set_description(name)
        begin = time.perf_counter()
        scored = run(lstm, batches, arguments.workers)
        seconds = time.perf_counter() - begin
        equal = np.array_equal(np.concatenate([one.last for one in scored]), expected)
        same &= equal
        threads = "/".join(map(str, sorted({one.threads for one in scored})))
        progress.write(f"{name:22} {seconds:8.2f} {len({one.worker for one in scored}):8} {threads:>16}  {equal}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
