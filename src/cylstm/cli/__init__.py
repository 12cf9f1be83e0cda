"""The command line. A map of this folder::

main.py       arguments, subcommands, errors
run.py        cylstm run
convert.py    cylstm convert, cylstm inspect
bench.py      cylstm bench
info.py       cylstm info
tune_cupy.py  python -m cylstm.cli.tune_cupy: measures the cupy backend on a GPU
"""

from .main import main

__all__ = ["main"]
