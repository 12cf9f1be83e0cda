"""The kernels of the cupy backend.

A map of this folder::

    lstm.h       gate arithmetic and the table of steps: plain C++, compiled for GPU and CPU
    lstm.cu      one step of all directions, forward and backward
    source.py    the text of the kernels, and the compiler's options for a dtype and a tile
    planner.py   which tier and which tile, from facts about device and problem
    steps.py     a layer as a sequence of launches, forward and backward
    launcher.py  compiles, launches and records through CuPy; the only file here that imports it

Everything but the launcher works without a GPU: the tests run the kernels on the CPU, block by block.
"""
