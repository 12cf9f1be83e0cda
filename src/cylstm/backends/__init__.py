"""The backends of cylstm: whatever can run one LSTM layer. A map of this folder::

    base.py            the contract of a backend; the shapes of every argument stand there, once
    errors.py          the errors about backends
    precision.py       float32, bfloat16 or int8: what may be chosen, and what is in force
    plugins.py         what backends there are: built-in ones, entry points, how their classes are loaded
    stops.py           whether an exception stops the program, or belongs to the code that ran
    guard.py           the border to backends of other people: their errors and results, with their name
    registry.py        which backend computes: selection, environment, the one object of each backend
    numpy_backend.py   the executable definition of the LSTM: plain, short, every dtype, forward and backward
    cython_backend/    the compiled backend, for CPUs
    cupy_backend/      NVIDIA GPUs, on CuPy

Imports run one way: ``registry`` and ``guard`` → ``plugins`` → ``errors``, ``stops`` and ``base``; ``cupy_backend``
→ ``numpy_backend`` → ``base``; ``cython_backend`` → ``base``. No backend is imported before it is requested; importing
this package imports nothing.
"""
