"""The backend for NVIDIA GPUs, on CuPy. A map of this folder::

    backend.py      CupyBackend: moves arrays, chooses a kernel variant, calls it; VARIANTS, best first
    variants.py     what a kernel variant is, and which one a call takes
    persistent/     the variant `persistent`: all steps of a layer in one launch
    cudnn/          the variant `cudnn`: a layer by NVIDIA's cuDNN
    steps.py        the variant `steps`: a layer as a sequence of launches, forward and backward
    stream.py       single steps, as a graph that is recorded once
    schedule.py     the schedule of a pass: the table of steps, launches, and what is recorded of them
    weights.py      the parameters of a layer as `steps` reads them
    loop.py         the variant `array`: the loop over steps in array operations, for every dtype
    planner.py      tiles and grids, from facts about device and workload
    presence.py     whether there is a GPU, without a use of CUDA that a fork would not survive
    device.py       what the others need of a GPU
    cupy_device.py  the GPUs: compiles, launches, records and multiplies through CuPy
    gemm.py         arguments of cuBLAS for matrices as NumPy lays them out
    source.py       the text of the kernels, and the compiler's options for a dtype and a tile
    lstm.h          gate arithmetic and the table of steps: plain C++, compiled for GPU and CPU
    lstm.cu         one step of all directions, forward and backward; one step of a stream

Imports run one way: ``backend`` → ``steps``, ``stream``, ``loop`` → ``schedule`` → ``variants``, ``weights``,
``source`` → ``device`` → ``planner``. Everything but cupy_device.py works without a GPU: the tests run the kernels on
the CPU, block by block.
"""

from .backend import CupyBackend

__all__ = ["CupyBackend"]
