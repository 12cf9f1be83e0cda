"""Score a file that is larger than the memory of the workers, on Dask: read, computed and written chunk by chunk.

The file is a NumPy ``.npy`` of sequences (N, T, I), which this script makes in a temporary folder; the scores go into
another, (N, classes). Each task reads its chunk, scores it and writes it, so a worker never holds more than a chunk
for each of its threads. Run it from anywhere, with ``dask[array,distributed]`` and tqdm installed beside cylstm::

    python examples/batch_scoring.py                                # 600 MB by two workers of 400 MiB
    python examples/batch_scoring.py --megabytes 20000 --workers 8

It prints the peak memory of every process beside the size of the file. The exit status is 1 if a score differs in a
single bit from what this process computes for the same sequence alone, or if a process needed half as much memory for
the scoring as the file is large.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from settings import missing

try:
    import dask.array as da
    import numpy as np
    from distributed import Client, LocalCluster, as_completed, futures_of
    from tqdm import tqdm

    import cylstm
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

STEPS, FEATURES, CLASSES = 64, 32, 10


def score(sequences: np.ndarray, lstm: cylstm.LSTM) -> np.ndarray:
    """Sequences (B, T, I) to scores (B, classes): the projection of the last hidden state."""
    _, (h_n, _) = lstm(sequences)
    return h_n[-1]


class NpyFile:
    """A ``.npy`` file as Dask takes it: pickled as a path, opened for the rows that are read or written, then closed.

    (A memory map given to Dask would be sent along with the graph, all of it; and one that a worker keeps open counts
    as its memory, page by page.)
    """

    def __init__(self, path: Path) -> None:
        header = np.load(path, mmap_mode="r")
        self.path, self.shape, self.dtype, self.ndim = path, header.shape, header.dtype, header.ndim

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...], dtype: Any) -> NpyFile:
        """A new file; its rows are zero."""
        np.lib.format.open_memmap(path, mode="w+", shape=shape, dtype=dtype).flush()
        return cls(path)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.array(np.load(self.path, mmap_mode="r")[index])

    def __setitem__(self, index: Any, rows: np.ndarray) -> None:
        np.load(self.path, mmap_mode="r+")[index] = rows


def write_sequences(path: Path, count: int, *, rows: int = 500) -> NpyFile:
    """A file of so many sequences: waves of several periods, and noise."""
    file = NpyFile.create(path, (count, STEPS, FEATURES), np.float32)
    random = np.random.default_rng(0)
    t = np.arange(STEPS, dtype=np.float32)[:, None]
    for begin in tqdm(range(0, count, rows), desc="writing", unit="chunk"):
        shape = (min(rows, count - begin), 1, FEATURES)
        periods, phases = random.uniform(4, 40, shape), random.uniform(0, 2 * np.pi, shape)
        waves = np.sin(2 * np.pi * t / periods + phases)
        file[begin : begin + rows] = waves + random.normal(0, 0.1, waves.shape)
    return file


def score_file(client: Client, lstm: cylstm.LSTM, source: NpyFile, target: NpyFile, *, rows: int) -> None:
    """Score all sequences of a file, so many rows at a time, and write the scores into another."""
    sequences = da.from_array(source, chunks=(rows, -1, -1), inline_array=True)
    model = client.scatter(lstm, broadcast=True)  # once to each worker, which packs the weights once
    chunks = (sequences.chunks[0], (target.shape[1],))
    scores = sequences.map_blocks(
        score, model, drop_axis=(1, 2), new_axis=1, chunks=chunks, meta=np.empty((0, 0), target.dtype)
    )
    stored = da.store(scores, target, lock=False, compute=False, return_stored=True)  # no two chunks share a row
    futures = futures_of(stored.persist())
    with tqdm(total=source.shape[0], desc="scoring", unit="sequence") as progress:
        for future in as_completed(futures):
            future.result()  # raises where the task has failed
            progress.update(chunks[0][future.key[1]])


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except OSError:  # no Linux
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)


def differing(lstm: cylstm.LSTM, source: NpyFile, target: NpyFile, *, count: int = 50) -> int:
    """How many of so many sequences, spread over the file, have another score than when they are scored alone here."""
    chosen = np.linspace(0, source.shape[0] - 1, count).astype(int)
    return sum(not np.array_equal(score(source[n : n + 1], lstm), target[n : n + 1]) for n in chosen)


def listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=600, help="the size of the file")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--memory-limit", default="400MiB", help="of each worker, which Dask ends above it")
    parser.add_argument("--rows", type=int, default=512, help="sequences in a chunk")
    arguments = parser.parse_args()

    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(FEATURES, 64, batch_first=True, proj_size=CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        count = arguments.megabytes * 10**6 // (4 * STEPS * FEATURES)
        source = write_sequences(Path(folder, "sequences.npy"), count)
        target = NpyFile.create(Path(folder, "scores.npy"), (count, CLASSES), np.float32)
        size = source.path.stat().st_size
        with (
            LocalCluster(
                n_workers=arguments.workers,
                threads_per_worker=1,
                memory_limit=arguments.memory_limit,
                dashboard_address="127.0.0.1:0",
            ) as cluster,
            Client(cluster) as client,
        ):
            before = [peak_memory(), *client.run(peak_memory).values()]  # most of it Dask's
            begin = time.perf_counter()
            score_file(client, lstm, source, target, rows=arguments.rows)
            seconds = time.perf_counter() - begin
            threads = client.run(cylstm.get_num_threads).values()
            peaks = [peak_memory(), *client.run(peak_memory).values()]
        wrong = differing(lstm, source, target)

    grown = [peak - idle for peak, idle in zip(peaks, before, strict=True)]
    rows = {
        "file": f"{size / 1e6:,.0f} MB, {count:,} sequences of {STEPS} × {FEATURES}",
        "scored": f"in {seconds:.1f} s, {count / seconds:,.0f} sequences per second",
        "threads of cylstm": f"{listed(threads)} in the workers",
        "peak memory": f"{listed(f'{peak / 1e6:,.0f} MB' for peak in peaks)}: of this process and the workers",
        "of it for scoring": f"{listed(f'{more / 1e6:,.0f} MB' for more in grown)}",
        "same bits": f"{'no' if wrong else 'yes'}: 50 sequences scored alone, {wrong} of them differ",
    }
    print()
    for name, value in rows.items():
        print(f"{name:18} {value}")
    return 0 if not wrong and max(grown) < size / 2 else 1


if __name__ == "__main__":  # the workers import this file
    sys.exit(main())
