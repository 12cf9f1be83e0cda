"""Build of the compiled backend. Everything else about the package stands in pyproject.toml.

Two extension modules of ``cylstm.backends.cython_backend``, ``_layer`` and ``_lstm``, and one object file of C tiles
for each line of ``kernels/kernels.def`` (instruction set x precision), from which the program chooses when it runs.
The compiler is GCC or Clang; on Windows clang-cl, or GCC or Clang of mingw-w64. What it builds for decides, not the
machine that it runs on: see ``tools/build_target.py``, which this file uses.
Environment variables: CYLSTM_OPENMP=required makes a compiler without OpenMP an error instead of a warning,
CYLSTM_OPENMP=off builds without; CYLSTM_CFLAGS are added to the compiler's flags; CYLSTM_LIMITED_API=0 builds for this
version of Python alone.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

sys.path.insert(0, str(Path(__file__).parent / "tools"))  # a build backend does not look there
from build_target import prepare_compiler, slices, target_of

PACKAGE = "cylstm.backends.cython_backend"
HERE = Path("src", *PACKAGE.split("."))
KERNELS = HERE / "kernels"
C_FILES = sorted(str(p) for p in HERE.rglob("*") if p.suffix in (".h", ".def", ".pxd") or p.parent == KERNELS)
# -O3 without -ffast-math: the order of every sum is part of the result. -ffp-contract=off: a fused multiply-add only
# where the source says so. -g0: the wheel is a quarter of the size.
FLAGS = ["-O3", "-g0", "-std=gnu11", "-D_GNU_SOURCE", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
# Here, for a directive in a .pyx does not reach the functions of the .pxd files.
DIRECTIVES = {
    "language_level": "3",
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
}
NO_OPENMP = "the compiler cannot build OpenMP: cylstm will run on one thread"


def setting(name, values):
    """An environment variable of the build, one of these values; the first one where it is not set."""
    value = os.environ.get(name, values[0])
    if value not in values:
        known = ", ".join(filter(None, values))
        raise SystemExit(f"{name} must be one of {known}, or unset, got {value!r}: correct it")
    return value


OPENMP = setting("CYLSTM_OPENMP", ["", "required", "off"])
# With `check` an index beyond a typed memoryview is an IndexError: slower, for tests.
BOUNDS = setting("CYLSTM_BOUNDS", ["", "check"]) == "check"
# One module for all versions from 3.11 on. Python without a lock has no such interface before 3.15.
LIMITED_API = setting("CYLSTM_LIMITED_API", ["1", "0"]) == "1" and not sysconfig.get_config_var("Py_GIL_DISABLED")


def kernel_lines(architectures):
    """The lines of kernels.def for these: architecture, isa, compiler flags, precision, state, weights."""
    flags, lines = {}, []
    for line in (KERNELS / "kernels.def").read_text("utf-8").splitlines():
        if isa := re.fullmatch(r'ISA\((\w+), (\w+), "(.*?)", .*\)', line):
            flags[isa[2]] = isa[3].split()
        elif kernels := re.fullmatch(r"KERNELS\((\w+), (\w+), (\w+), (\w+), (\w+)\)", line):
            architecture, isa, precision, state, weights = kernels.groups()
            if architecture in ("any", *architectures):
                lines.append((architecture, isa, flags[isa], precision, state, weights))
        elif line.startswith(("ISA", "KERNELS")):
            raise RuntimeError(f"a line of kernels.def must be ISA(...) or KERNELS(...) as its head says, got {line!r}")
    return lines


class BuildKernels(build_ext):
    """Compile the C tiles once per line of kernels.def, then the Cython modules."""

    def build_extensions(self):
        """Say first what is missing: compilers and pip say it in their own way, or not at all."""
        prepare_compiler(self.compiler, self.plat_name)
        if not any(Path(folder, "Python.h").exists() for folder in self.include_dirs):
            raise CompileError("Python's headers must be there: install them (Debian: apt install python3-dev)")
        self.target = target_of(self.compiler, self.plat_name)
        self.flags = self.target.spelled([*FLAGS, *os.environ.get("CYLSTM_CFLAGS", "").split()])
        self.openmp = self.openmp_flags()
        super().build_extensions()

    def get_ext_filename(self, fullname):
        name = super().get_ext_filename(fullname)  # of this system, and Windows has one ending for every interface
        return re.sub(r"(\.abi3)?\.so$", ".pyd", name) if self.plat_name.startswith("win") else name

    def build_extension(self, ext):
        ext.extra_compile_args = [*self.flags, *self.openmp]
        ext.extra_link_args = [*self.openmp, *self.target.link_flags(strip="CYLSTM_CFLAGS" not in os.environ)]
        ext.libraries = self.target.libraries
        if ext.name.endswith("._layer"):
            ext.extra_objects = self.kernel_objects()
        super().build_extension(ext)

    def kernel_objects(self):
        folder = Path(self.build_temp) / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        objects = []
        for architecture, isa, isa_flags, precision, state, weights in kernel_lines(self.target.architectures):
            macros = [
                ("ISA_NAME", isa),
                ("ISA_HEADER", f'"isa/{isa}.h"'),
                ("WEIGHTS_HEADER", f'"weights/{weights}.h"'),
                ("PRECISION", precision),
                ("DOUBLE", str(int(state == "double"))),
            ]
            name = f"lstm_{isa}_{precision}"
            flags = [*self.flags, *self.target.spelled(isa_flags)]
            with slices(self.compiler, architecture):
                objects += self.compile_as("lstm.c", folder / f"{name}.c", macros, flags)
        return objects + self.compile_as("select.c", folder / "select.c", [], self.flags)

    def compile_as(self, source, copy, macros, flags):
        """Compile a C file of the kernels under the name of a copy, in the build folder; the list of its object."""
        lines = [f"#define {macro} {value}" for macro, value in macros]  # the compiler names objects after their source
        lines.append(f'#include "{(KERNELS / source).resolve().as_posix()}"')
        copy.write_text("\n".join([*lines, ""]))
        return self.compiler.compile(
            [str(copy)],
            output_dir=self.build_temp,
            include_dirs=[str(KERNELS)],
            extra_postargs=flags,
            depends=C_FILES,
        )

    def openmp_flags(self):
        """The flags that make the compiler build OpenMP, found by building a small program; none without it."""
        if OPENMP == "off":
            return []
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            for flags in self.target.openmp_candidates:
                command = [*self.target.command, str(source), *flags, "-o", str(Path(folder, "probe"))]
                if subprocess.run(command, capture_output=True, check=False, cwd=folder).returncode == 0:
                    return flags
        if OPENMP == "required":
            raise RuntimeError(f"{NO_OPENMP} (CYLSTM_OPENMP=required makes that an error)")
        warnings.warn(NO_OPENMP, stacklevel=1)
        return []


extensions = [
    Extension(
        f"{PACKAGE}.{name}",
        sources=[str(HERE / f"{name}.pyx")],
        include_dirs=[str(HERE)],
        depends=C_FILES,
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED_API else [],
        py_limited_api=LIMITED_API,
    )
    for name in ("_layer", "_lstm")
]
setup(
    ext_modules=cythonize(extensions, compiler_directives={**DIRECTIVES, "boundscheck": BOUNDS}, force=BOUNDS),
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
