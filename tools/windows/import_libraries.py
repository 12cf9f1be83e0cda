"""``import_libraries.py PYTHON3_DLL FOLDER``: what a module for Windows is linked with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pefile

SLEEP_ON_ADDRESS = ("WaitOnAddress", "WakeByAddressAll", "WakeByAddressSingle")


def write(library: str, names: list[str], archive: Path) -> None:
    definition = archive.with_suffix(".def")
    definition.write_text("\n".join([f"LIBRARY {library}", "EXPORTS", *names, ""]))
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "dlltool",
        "-m",
        "i386:x86-64",
        "-d",
        str(definition),
        "-l",
        str(archive),
    ]
    subprocess.run(command, check=True)


def main(dll: Path, folder: Path) -> None:
    image = pefile.PE(str(dll))
    names = [symbol.name.decode() for symbol in image.DIRECTORY_ENTRY_EXPORT.symbols if symbol.name]
    data = {name for name in names if name.endswith(("_Type", "_Struct")) or name.startswith(("PyExc_", "Py_Version"))}
    write(dll.name, [f"{name} DATA" if name in data else name for name in names], folder / "libpython3.a")
    write("api-ms-win-core-synch-l1-2-0.dll", list(SLEEP_ON_ADDRESS), folder / "libsynchronization.a")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
