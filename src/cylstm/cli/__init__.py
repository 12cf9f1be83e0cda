"""The command line. A map of this folder::

    main.py        errors, warnings, signals, the exit status
    parser.py      the arguments of all subcommands
    commands.py    the subcommands: what they call, and what they print
    run.py         what cylstm run does
    sequences.py   its arrays in files: input read part by part, output on space that is there
    convert.py     what cylstm convert and cylstm inspect do
    bench.py       what cylstm bench does
    info.py        what cylstm info tells
    tune_cupy.py   python -m cylstm.cli.tune_cupy: measures the cupy backend on a GPU

A command imports what it needs when it runs.
"""

from .main import main

__all__ = ["main"]
