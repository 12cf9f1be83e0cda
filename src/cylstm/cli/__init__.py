"""The command line. A map of this folder::

    main.py        errors, warnings, signals, the exit status
    parser.py      the arguments of all subcommands
    commands.py    the subcommands: what they call, and what they print
    run.py         what cylstm run does
    sequences.py   its arrays in files: input read part by part, output on space that is there
    convert.py     what cylstm convert does
    inspect.py     what cylstm inspect tells
    outputs.py     the rule about files that are there already
    bench.py       what cylstm bench does
    peers.py       the others that it measures
    info.py        what cylstm info and cylstm backends tell

A command imports what it needs when it runs.
"""

from .main import main

__all__ = ["main"]
