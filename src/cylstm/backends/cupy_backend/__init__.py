"""The backend for NVIDIA GPUs, on CuPy. A map of this folder::

    backend.py   CupyBackend: moves arrays, chooses, calls
    lstm.h       gate arithmetic and the table of steps: plain C++, compiled for GPU and CPU
    lstm.cu      one step of all directions, forward and backward
    source.py    the text of the kernels, and the compiler's options for a dtype and a tile
    planner.py   which tier and which tile, from facts about device and problem
    measured.py  a table of which tier was the fastest, in a JSON file
    steps.py     a layer as a sequence of launches, forward and backward
    system.py    the GPUs: compiles, launches and records through CuPy
    tune.py      python -m cylstm.backends.cupy_backend.tune: checks and measures the tiers on a GPU, writes the table

Everything but system.py and tune.py works without a GPU: the tests run the kernels on the CPU, block by block.
"""

from .backend import CupyBackend

__all__ = ["CupyBackend"]
