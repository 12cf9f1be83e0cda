"""What a compiler builds for, and how it takes its flags: for setup.py.

The compiler says it by its macros. The platform in the wheel's name must say the same. A universal binary of macOS has
two slices: kernels of one architecture are compiled for that slice alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setuptools.errors import CompileError

ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
MACROS = {"__x86_64__": "x86_64", "__aarch64__": "aarch64"}
CLANG_CL = (
    "the C compiler on Windows must be clang-cl, or gcc or clang of mingw-w64 (setup.cfg: [build_ext] compiler=mingw32)"
)


@dataclass(frozen=True)
class Target:
    """A system and its architectures, as a compiler builds for them."""

    system: str  # "linux", "macos", "windows" or "other"
    architectures: tuple[str, ...]  # "x86_64", "aarch64"; none: another one, on which the generic kernels run
    command: list[str]  # that runs the compiler
    clang_cl: bool

    def spelled(self, flags: list[str]) -> list[str]:
        """Flags of GCC as this compiler takes them."""
        return [f"/clang:{flag}" for flag in flags] if self.clang_cl else list(flags)

    def link_flags(self, *, strip: bool) -> list[str]:
        """Flags that leave out the names of functions, which nobody needs to run the module."""
        if self.clang_cl or not strip:
            return []
        return ["-Wl,-x"] if self.system == "macos" else ["-Wl,-s"]

    @property
    def libraries(self) -> list[str]:
        return ["synchronization"] if self.system == "windows" else []

    @property
    def openmp_candidates(self) -> list[list[str]]:
        """Flags that may build OpenMP, one of them to be chosen."""
        if self.clang_cl:
            return [["/clang:-fopenmp"]]
        return [["-fopenmp"], *([["-Xpreprocessor", "-fopenmp", "-lomp"]] if self.system == "macos" else [])]


def prepare_compiler(compiler: Any, plat_name: str) -> None:
    """Have a compiler that takes GNU C, or say which one must be there."""
    if compiler.compiler_type == "msvc":
        if not compiler.initialized:
            compiler.initialize(plat_name)
        compiler.cc = _clang_cl()
        return
    if not hasattr(compiler, "compiler_so"):
        raise CompileError(f"the C compiler must be GCC or Clang, got one of type {compiler.compiler_type!r}")
    command = compiler.compiler_so[0]
    if shutil.which(command) is None:
        raise CompileError(
            f"there must be a C compiler, and {command!r} is not there: install one (Debian: apt install gcc), or "
            "name it by the variable CC"
        )


def _clang_cl() -> str:
    named = os.environ.get("CC")
    places = [named] if named else ["clang-cl", *(_program_files("LLVM/bin/clang-cl.exe"))]
    found = next((path for path in map(shutil.which, places) if path), None)
    if named and (found is None or not Path(found).stem.lower().startswith("clang-cl")):
        raise CompileError(f"{CLANG_CL}, got CC={named!r}: unset CC, or name clang-cl by it")
    if found is None:
        raise CompileError(f"{CLANG_CL}, and there is no clang-cl: install LLVM, or name clang-cl by the variable CC")
    return found


def _program_files(path: str) -> list[str]:
    return [str(Path(os.environ[name], path)) for name in ("ProgramW6432", "ProgramFiles") if name in os.environ]


def target_of(compiler: Any, plat_name: str) -> Target:
    """What this compiler builds for. A wheel's name that says something else is an error."""
    clang_cl = compiler.compiler_type == "msvc"
    machine = {"win-amd64": "x86_64", "win-arm64": "aarch64"}.get(plat_name)
    command = [compiler.cc] if clang_cl else list(compiler.compiler_so)
    if clang_cl and machine:
        command.append(f"--target={machine}-pc-windows-msvc")
        compiler.compile_options = [o for o in compiler.compile_options if o != "/GL"] + command[1:]
    named = [command[n + 1] for n, word in enumerate(command[:-1]) if word == "-arch"]
    asked = [_macros(_of_slice(command, name), clang_cl) for name in dict.fromkeys(named)] or [
        _macros(command, clang_cl)
    ]
    architectures = tuple(MACROS[macro] for macros in asked for macro in MACROS if macro in macros)
    macros = asked[0]
    if "__clang__" not in macros and "__GNUC__" not in macros:
        raise CompileError(f"the C compiler must be GCC or Clang, got {command[0]!r}: name one by the variable CC")
    _compare(architectures, plat_name, command)
    systems = {"__linux__": "linux", "__APPLE__": "macos", "_WIN32": "windows"}
    system = next((name for macro, name in systems.items() if macro in macros), "other")
    return Target(system, architectures, command, clang_cl)


def _macros(command: list[str], clang_cl: bool) -> set[str]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.c")
        source.write_text("")
        flags = ["/clang:-dM", "/E", "/nologo"] if clang_cl else ["-dM", "-E"]
        done = subprocess.run([*command, *flags, str(source)], capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise CompileError(f"the C compiler must name its macros (-dM -E), and {command} says: {done.stderr.strip()}")
    return set(re.findall(r"^#define (\w+)", done.stdout, re.M))


def _compare(architectures: tuple[str, ...], plat_name: str, command: list[str]) -> None:
    machine = re.split(r"[-_](?=\w+$)", plat_name.replace("x86_64", "amd64"))[-1]
    tagged = {"x86_64", "aarch64"} if machine == "universal2" else {ARCHITECTURES.get(machine, "")}
    if struct.calcsize("P") == 4 or tagged == {""}:  # the platform of a 32-bit Python may be that of its kernel
        return
    if set(architectures) != tagged:
        raise CompileError(
            f"the compiler must build for {plat_name}, the platform of the wheel, and {command[0]!r} builds for "
            f"{', '.join(architectures) or 'another architecture'}: correct CC or ARCHFLAGS, or name the platform "
            "(when cross-compiling, by _PYTHON_HOST_PLATFORM)"
        )


def _of_slice(command: list[str], architecture: str) -> list[str]:
    """A command of several -arch with this one alone."""
    words, n = [], 0
    while n < len(command):
        if command[n] == "-arch" and n + 1 < len(command):
            words += command[n : n + 2] if command[n + 1] == architecture else []
            n += 2
        else:
            words.append(command[n])
            n += 1
    return words


@contextlib.contextmanager
def slices(compiler: Any, architecture: str) -> Iterator[None]:
    """Compile for the slice of this architecture alone, inside; "any" is all of them."""
    whole = getattr(compiler, "compiler_so", [])
    if architecture == "any" or whole.count("-arch") < 2:
        yield
        return
    name = {"aarch64": "arm64"}.get(architecture, architecture)
    compiler.compiler_so = _of_slice(whole, name)
    try:
        yield
    finally:
        compiler.compiler_so = whole
