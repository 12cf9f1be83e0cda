"""Random configurations of the LSTM, run by PyTorch and by cylstm side by side."""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils import rnn

import cylstm
from cylstm.backends import registry
from cylstm.backends.base import Backend

torch.set_num_threads(1)


def bits_come_from_mkl() -> bool:
    """Whether PyTorch lets MKL draw the bits of dropout, as it does on Intel CPUs: then its masks are not ours."""
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    bits = torch.empty(64).bernoulli_(0.5, generator=generators[0])
    return not torch.equal(bits == 1, torch.rand(64, dtype=torch.float64, generator=generators[1]) < 0.5)


BITS_COME_FROM_MKL = bits_come_from_mkl()

BACKENDS = [row.name for row in cylstm.available_backends() if row.status == "available"]
WIDE = {
    "float16": np.float64,
    "float32": np.float64,
    "float64": np.float64,
    "complex64": np.complex128,
    "complex128": np.complex128,
}


def dtypes_of(backend: str | Backend) -> list[str]:
    """The dtypes that a backend computes and that NumPy has by itself; the other one has tests/nn/test_bfloat16.py."""
    loaded = registry.load(backend) if isinstance(backend, str) else backend
    return sorted(loaded.capabilities.dtypes - {"bfloat16"})


class Case(NamedTuple):
    """One configuration and its data."""

    seed: int
    options: dict[str, Any]  # of the constructor
    dtype: str
    form: str  # "batched", "unbatched", "packed" (sorted by length) or "unsorted"
    lengths: list[int]  # of the sequences; all the same unless packed
    x: np.ndarray  # (T, B, I), or (B, T, I) with batch_first, or (T, I)
    hx: tuple[np.ndarray, np.ndarray] | None

    def __repr__(self) -> str:
        state = "" if self.hx is None else ", hx"
        return f"seed {self.seed}: LSTM({self.options}), {self.dtype}, {self.form}, lengths {self.lengths}{state}"


def draw(seed: int, dtypes: list[str], largest: int = 20) -> Case:
    """A case from its number."""
    rng = np.random.default_rng(seed)

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    form = str(rng.choice(["batched", "batched", "unbatched", "packed", "unsorted"]))
    I, H = (int(n) for n in rng.integers(1, largest + 1, 2))
    if chance(0.1):
        I, H = (int(n) for n in rng.integers(20, 80, 2))
    H = max(H, 2)
    options = {
        "input_size": I,
        "hidden_size": H,
        "num_layers": int(rng.integers(1, 4)),
        "bias": chance(0.7),
        "batch_first": chance(0.4),
        "dropout": 0.0,
        "bidirectional": chance(0.4),
        "proj_size": int(rng.integers(1, H)) if chance(0.25) else 0,
    }
    if options["num_layers"] > 1 and chance(0.3):
        options["dropout"] = float(rng.choice([0.25, 0.5, 1.0]))
    T, B = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    if form == "batched" and chance(0.05):
        B = 0
    lengths = [T] * (1 if form == "unbatched" else B)
    if form in ("packed", "unsorted"):
        lengths = [int(n) for n in rng.integers(1, 9, B)]
        if form == "packed":
            lengths.sort(reverse=True)
        T = max(lengths)
    dtype = str(rng.choice(dtypes))

    def numbers(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape)
        if dtype.startswith("complex"):  # small, for the complex sigmoid and tanh have poles
            values = 0.3 * (values + 1j * rng.standard_normal(shape))
        return values.astype(dtype)

    leading = (T,) if form == "unbatched" else (len(lengths), T) if options["batch_first"] else (T, len(lengths))
    x = numbers(*leading, 2 * I)[..., ::2] if chance(0.3) else numbers(*leading, I)
    x.flags.writeable = chance(0.5)
    hx = None
    if chance(0.5):
        L = options["num_layers"] * (1 + options["bidirectional"])
        states = (L,) if form == "unbatched" else (L, len(lengths))
        hx = numbers(*states, options["proj_size"] or H), numbers(*states, H)
    return Case(seed, options, dtype, form, lengths, x, hx)


def modules(
    case: Case, backend: str | Backend | None = None, training: bool = False
) -> tuple[torch.nn.LSTM, cylstm.LSTM]:
    """PyTorch's module and ours from the same seed."""
    torch.default_generator.manual_seed(case.seed)  # `torch.manual_seed` formats the stack, for CUDA
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about complex modules and projections
        theirs = torch.nn.LSTM(**case.options, dtype=getattr(torch, case.dtype)).train(training)
    cylstm.manual_seed(case.seed)
    ours = cylstm.LSTM(**case.options, dtype=case.dtype, backend=backend).train(training)
    return theirs, ours


def widened(module: torch.nn.LSTM, dtype: str) -> torch.nn.LSTM:
    """The same module in the dtype that serves as exact."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(module).to(torch.from_numpy(np.zeros(1, WIDE[dtype])).dtype)


def rounding(module: torch.nn.LSTM, case: Case, x: torch.Tensor, hx: Any, exact: Any) -> list[float]:
    """How far changes of the parameters in their last digit move output, h_n and c_n at most: near a pole, far."""
    torch.default_generator.manual_seed(case.seed)
    most = [0.0, 0.0, 0.0]
    for _ in range(5):  # one may happen to move little
        moved = copy.deepcopy(module)
        with torch.no_grad():
            for parameter in moved.parameters():
                parameter *= 1 + np.finfo(case.dtype).eps * torch.randn(parameter.shape, dtype=torch.float64)
        state = torch.default_generator.get_state()
        results = zip(most, run_torch(moved, case, x, hx), exact, strict=True)
        torch.default_generator.set_state(state)
        most = [max(n, float((a - b).detach().abs().max()) if a.numel() else 0.0) for n, a, b in results]
    return most


def tensor(array: np.ndarray, dtype: Any = None) -> torch.Tensor:
    """A PyTorch tensor of its own memory."""
    return torch.from_numpy(np.array(array, dtype=dtype))


def run_torch(module: torch.nn.LSTM, case: Case, x: Any, hx: Any) -> tuple[torch.Tensor, Any, Any]:
    """PyTorch's output data, h_n and c_n."""
    torch.default_generator.manual_seed(case.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.form in ("packed", "unsorted") and not isinstance(x, rnn.PackedSequence):
            x = rnn.pack_padded_sequence(
                x, torch.tensor(case.lengths), case.options["batch_first"], case.form == "packed"
            )
        output, (h_n, c_n) = module(x, hx)
    return (output.data if case.form in ("packed", "unsorted") else output), h_n, c_n


def our_input(case: Case) -> Any:
    """The input in the form that the case says."""
    if case.form not in ("packed", "unsorted"):
        return case.x
    return cylstm.pack_padded_sequence(
        case.x, np.array(case.lengths), case.options["batch_first"], enforce_sorted=case.form == "packed"
    )


def data(value: Any) -> np.ndarray:
    """The array of an output or gradient, packed or not."""
    return value.data if isinstance(value, cylstm.PackedSequence) else value
