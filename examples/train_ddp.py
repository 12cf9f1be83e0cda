"""Train a PyTorch model by two processes with DistributedDataParallel, its LSTM computed by cylstm.

Each process computes the gradients of its half of every batch, and DDP averages them. So both hold the same weights at
any time, bit for bit, and these are the weights of a training by one process on the whole batches, up to rounding:
the script trains in both ways and compares. float64, for the comparison to be sharp. The data are scikit-learn's
handwritten digits, split as in ``digits.py``. Run it from anywhere, with PyTorch and scikit-learn installed beside
cylstm::

    python examples/train_ddp.py

The processes meet on the loopback interface, by PyTorch's backend gloo. They are spawned, not forked: a process forked
from one whose OpenMP threads PyTorch has used can wait for those threads forever. The exit status is 1 if the weights
of the processes differ in a bit, or from those of one process by more than 1e-9, or if less than 0.9 of the held-out
images are read right.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from settings import missing

try:
    import torch
    from torch import distributed, multiprocessing, nn
    from torch.nn.parallel import DistributedDataParallel
    from tqdm import tqdm

    import cylstm
    import cylstm.torch
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

if TYPE_CHECKING:  # the processes import this file, and need no scikit-learn
    from digits import Digits

BATCH = 64
TOLERANCE = 1e-9
REQUIRED_ACCURACY = 0.9
MINUTES = 5  # after which processes that have not ended are given up


class DigitReader(nn.Module):
    """An LSTM over the rows of an image in both directions, a linear layer on the last hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = cylstm.torch.LSTM(8, 32, batch_first=True, bidirectional=True, dtype=torch.float64)
        self.head = nn.Linear(64, 10, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        _, (h_n, _) = self.lstm(images)
        return self.head(torch.cat([h_n[0], h_n[1]], dim=1))


def train(
    data: Digits, *, epochs: int, seed: int = 0, rank: int = 0, world_size: int = 1
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Train one of `world_size` processes on its part of each batch.

    Returns
    -------
    state_dict, list of torch.Tensor
        The trained weights; the gradients of the first step, averaged over the processes.
    """
    torch.manual_seed(seed)  # the weights are those of rank 0, whatever the other ranks draw
    model = DigitReader()
    parallel = DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    images, digits = torch.from_numpy(data.images).double(), torch.from_numpy(data.digits)
    order, first = torch.Generator().manual_seed(0), None  # the order of the images is the same in all of them
    name = f"process 1 of {world_size}" if world_size > 1 else "one process"
    for _ in tqdm(range(epochs), unit="epoch", desc=f"{name:18}", disable=rank > 0):
        for batch in torch.randperm(len(images), generator=order).split(BATCH):
            if len(batch) < BATCH:
                continue  # the last: the mean of means is the mean where the parts are equal
            part = batch[rank::world_size]
            loss = nn.functional.cross_entropy(parallel(images[part]), digits[part])
            optimizer.zero_grad()
            loss.backward()
            first = first or [parameter.grad.clone() for parameter in model.parameters()]
            optimizer.step()
    del parallel, loss  # a DDP module that outlives the process group hangs now and then when it ends
    return model.state_dict(), first


def worker(rank: int, world_size: int, folder: str, data: Digits, epochs: int) -> None:
    """One of the processes: it joins the others, trains, and leaves its weights in a file."""
    if sys.platform in ("linux", "darwin"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    torch.set_num_threads(1)  # cylstm takes one by itself in a process that multiprocessing has started
    meeting = Path(folder, "meeting").as_uri()
    distributed.init_process_group(
        "gloo", meeting, rank=rank, world_size=world_size, timeout=datetime.timedelta(minutes=MINUTES)
    )
    weights, gradients = train(data, epochs=epochs, seed=rank, rank=rank, world_size=world_size)
    result = {"weights": weights, "gradients": gradients, "threads": cylstm.get_num_threads()}
    torch.save(result, Path(folder, f"{rank}.pt"))
    distributed.barrier()
    distributed.destroy_process_group()


def train_in_processes(world_size: int, data: Digits, epochs: int) -> list[dict]:
    """What each of the processes has left."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.spawn(worker, (world_size, folder, data, epochs), nprocs=world_size, join=False)
        deadline = time.monotonic() + 60 * MINUTES
        try:
            while not context.join(timeout=5):  # raises what a process has raised, and ends the others then
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the processes have not ended after {MINUTES} minutes")
        finally:
            for process in context.processes:
                process.kill()  # does nothing where it has ended
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(world_size)]


def farthest(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """The largest difference of two elements."""
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@torch.no_grad()
def accuracy(weights: dict[str, torch.Tensor], data: Digits) -> float:
    """The share of images that are read right."""
    model = DigitReader()
    model.load_state_dict(weights)
    return (model(torch.from_numpy(data.images).double()).argmax(dim=1).numpy() == data.digits).mean().item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="how often each image is seen (10)")
    parser.add_argument("--processes", type=int, default=2, help=f"that divide each batch of {BATCH} (2)")
    arguments = parser.parse_args()
    if arguments.epochs < 1 or arguments.processes < 1 or BATCH % arguments.processes:
        parser.error(f"expected one epoch or more, and a number of processes that divides the batch of {BATCH}")
    torch.set_num_threads(1)
    try:
        from digits import split
    except ModuleNotFoundError as error:
        raise SystemExit(missing(error)) from None

    training, held_out = split()
    begin = time.perf_counter()
    weights, gradients = train(training, epochs=arguments.epochs)
    alone = time.perf_counter() - begin
    begin = time.perf_counter()
    results = train_in_processes(arguments.processes, training, arguments.epochs)
    together = time.perf_counter() - begin

    trained = [list(result["weights"].values()) for result in results]
    same = all(all(map(torch.equal, ours, trained[0])) for ours in trained)
    gradients_apart = max(farthest(result["gradients"], gradients) for result in results)
    apart = max(farthest(ours, list(weights.values())) for ours in trained)
    reached = accuracy(results[0]["weights"], held_out)
    rows = {
        "one process": f"{alone:.1f} s",
        f"{arguments.processes} processes": f"{together:.1f} s, most of it to start them",
        "threads of cylstm": f"{', '.join(str(result['threads']) for result in results)} in the processes",
        "same bits in all": "yes" if same else "no",
        "first gradients": f"within {gradients_apart:.0e} of those of one process",
        "weights": f"within {apart:.0e} of those of one process, after {arguments.epochs} epochs",
        "held-out accuracy": f"{reached:.4f}",
    }
    for name, value in rows.items():
        print(f"{name:18} {value}")
    return 0 if same and max(apart, gradients_apart) <= TOLERANCE and reached >= REQUIRED_ACCURACY else 1


if __name__ == "__main__":  # the processes import this file
    sys.exit(main())
