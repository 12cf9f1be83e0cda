"""The backends of cylstm: whatever can run one LSTM layer.

A map of this folder::

    base.py            the contract of a backend; the shapes of every argument stand there, once
    registry.py        which backend computes: names, selection, entry points, environment, errors
    numpy_backend.py   the executable definition of the LSTM: plain, short, every dtype, forward and backward
    cython_backend.py  checks and allocates, then calls _lstm
    cupy_backend.py    NVIDIA GPUs, on CuPy: moves arrays, chooses a tier
    cuda/              the kernels of the cupy backend, and which of them runs when
    _lstm.pyx          the algorithm: parallel region, time loop, partition, packing, gate loops
    _openmp.pxd        the only file that names OpenMP
    kernels/           C, one object per instruction set: the register tile and the CPU probe

Imports run one way: ``cylstm.nn.lstm`` → ``registry`` → ``base`` and ``*_backend`` → ``base``. The registry imports no
backend before it is asked for; importing this package imports nothing.
"""
