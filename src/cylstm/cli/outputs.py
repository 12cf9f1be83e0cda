"""The one rule about output files, for all commands that write one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..files import sharded
from ..files.container import replaceable


def check_output(output: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Refuse an output that is one of the inputs, and one that is there already unless `force` is given.

    Files are compared by what they are, so that links and other paths to a file count as the file. The files that the
    index of a model in several files names are inputs too.

    Raises
    ------
    FileNotFoundError
        If the folder of the output is missing.
    ValueError
        If it is an input, is there already, or is no regular file.
    """
    replaceable(output)
    if not output.exists():
        return
    for one in (file for given in inputs if given.exists() for file in (given, *sharded.files(given))):
        if one.exists() and output.samefile(one):
            raise ValueError(
                f"output must be another file than the input {str(one)!r}, got {str(output)!r}: give another name"
            )
    if not force:
        raise ValueError(
            f"output must be a new file, got {str(output)!r}, which is there: give another name, or --force to "
            "replace it"
        )
