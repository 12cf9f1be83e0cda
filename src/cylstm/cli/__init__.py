"""The command line. A map of this folder::

main.py      arguments, subcommands, errors
run.py       cylstm run
convert.py   cylstm convert, cylstm inspect
bench.py     cylstm bench
info.py      cylstm info
"""

from .main import main

__all__ = ["main"]
