"""The backend for NVIDIA GPUs, on CuPy. A map of this folder::

    backend.py      CupyBackend: moves arrays, chooses a kernel variant, calls it
    planner.py      which kernel variant and which tile, from facts about device and workload
    variants.py     what a kernel variant is, and which one a call takes
    cudnn/          the variant `cudnn`: a layer by NVIDIA's cuDNN
    timings.py      a table of the times of the variants, in a JSON file
    steps.py        the variant `steps`: a layer as a sequence of launches, forward and backward
    schedule.py     the schedule of a pass: table of steps, arrays, launches
    weights.py      the parameters of a layer as the kernels read them
    device.py       what the others need of a GPU
    cupy_device.py  the GPUs: compiles, launches and records through CuPy
    source.py       the text of the kernels, and the compiler's options for a dtype and a tile
    lstm.h          gate arithmetic and the table of steps: plain C++, compiled for GPU and CPU
    lstm.cu         one step of all directions, forward and backward

Imports run one way: ``backend`` → ``steps`` → ``schedule`` → ``weights``, ``device`` → ``planner`` → ``timings``.
Everything but cupy_device.py works without a GPU: the tests run the kernels on the CPU, block by block. ``python -m
cylstm.cli.tune_cupy`` checks and measures the variants on a GPU, and writes the table.
"""

from .backend import CupyBackend

__all__ = ["CupyBackend"]
