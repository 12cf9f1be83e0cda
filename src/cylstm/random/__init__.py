"""PyTorch's CPU random numbers in plain NumPy: the Mersenne Twister stream, and the uniform and normal draws on it.

The same seed gives what ``torch.manual_seed`` gives on the CPU: :func:`uniform`, :func:`rand` and
:func:`dropout_mask` bit for bit, :func:`randn` to 1e-6 (its logarithm, sine and cosine are NumPy's). Conventions
followed, all of PyTorch 2.13:

- one 32-bit word gives a number of at most 24 bits (float32 and the dtypes of 16 bits), two words, the high one first,
  give 53 bits;
- ``x * (high - low) + low`` is rounded once, and a result that rounds up to ``high`` becomes ``low``;
- complex numbers are pairs (real, imaginary) of real draws;
- fewer than 16 normal numbers come from a Box-Muller pair in float64 whose second value waits for the next call;
  16 or more come in blocks of 8 radii and 8 angles, and an incomplete last block is drawn again as the last 16;
- dropout keeps an element where 53 bits are below ``1 - p``. (PyTorch on an Intel CPU asks MKL's own generator
  instead, so there its masks differ; everywhere else they are these.)

Nothing is drawn or seeded before it is needed, and NumPy's global generator is never touched. A map of this folder::

    draws.py      the functions, and the default generator
    beside.py     dropout masks on a GPU
    generator.py  Generator
    exact.py      the multiplication and addition that are rounded once
"""

from .draws import (
    default_generator,
    dropout_mask,
    get_rng_state,
    initial_seed,
    manual_seed,
    rand,
    randn,
    set_rng_state,
    uniform,
)
from .generator import Generator

__all__ = [
    "Generator",
    "default_generator",
    "dropout_mask",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "rand",
    "randn",
    "set_rng_state",
    "uniform",
]
