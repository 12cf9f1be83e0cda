"""Build of the compiled backend. Everything else about the package stands in pyproject.toml.

Two extension modules of ``cylstm.backends.cython_backend``, ``_layer`` and ``_lstm``, and one object file of C tiles
for each line of ``kernels/kernels.def`` (instruction set x precision), from which the program chooses when it runs.
Environment variables: CYLSTM_REQUIRE_OPENMP=1 makes a compiler without OpenMP an error instead of a warning;
CYLSTM_CFLAGS are added to the compiler's flags.
"""

import os
import platform
import re
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

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
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
}
ARCHITECTURE = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


def kernel_lines():
    """The lines of kernels.def for this machine: architecture, isa, compiler flags, precision, state, weights."""
    flags, lines = {}, []
    for line in (KERNELS / "kernels.def").read_text("utf-8").splitlines():
        if isa := re.fullmatch(r'ISA\((\w+), (\w+), "(.*?)", .*\)', line):
            flags[isa[2]] = isa[3].split()
        elif kernels := re.fullmatch(r"KERNELS\((\w+), (\w+), (\w+), (\w+), (\w+)\)", line):
            architecture, isa, precision, state, weights = kernels.groups()
            if architecture in ("any", ARCHITECTURE):
                lines.append((architecture, isa, flags[isa], precision, state, weights))
        elif line.startswith(("ISA", "KERNELS")):
            raise RuntimeError(f"a line of kernels.def must be ISA(...) or KERNELS(...) as its head says, got {line!r}")
    return lines


class BuildKernels(build_ext):
    """Compile the C tiles once per line of kernels.def, then the Cython modules."""

    def build_extensions(self):
        """Say first what is missing: compilers and pip say it in their own way, or not at all."""
        compiler = self.compiler.compiler_so[0]
        if shutil.which(compiler) is None:
            raise CompileError(
                f"there must be a C compiler, and {compiler!r} is not there: install one (Debian: apt install gcc), or "
                "name it by the variable CC"
            )
        if not Path(sysconfig.get_path("include"), "Python.h").exists():
            raise CompileError("Python's headers must be there: install them (Debian: apt install python3-dev)")
        super().build_extensions()

    def build_extension(self, ext):
        flags = [*FLAGS, *os.environ.get("CYLSTM_CFLAGS", "").split()]
        openmp = self.openmp_flag()
        ext.extra_compile_args = [*flags, *openmp]
        ext.extra_link_args = openmp
        if ext.name.endswith("._layer"):
            ext.extra_objects = self.kernel_objects(flags)
        super().build_extension(ext)

    def kernel_objects(self, flags):
        folder = Path(self.build_temp) / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        objects = []
        for architecture, isa, isa_flags, precision, state, weights in kernel_lines():
            macros = [
                ("ISA_NAME", isa),
                ("ISA_HEADER", f'"isa/{isa}.h"'),
                ("WEIGHTS_HEADER", f'"weights/{weights}.h"'),
                ("PRECISION", precision),
                ("DOUBLE", str(int(state == "double"))),
            ]
            name = f"lstm_{isa}_{precision}"
            objects += self.compile_as("lstm.c", name, folder, macros, [*flags, *isa_flags], architecture)
        return objects + self.compile_as("select.c", "select", folder, [], flags)

    def compile_as(self, source, name, folder, macros, flags, architecture="any"):
        """Compile one C file into an object of a name of its own, in the build folder.

        The object is empty where the compiler is for another architecture than the machine, a 32-bit one say.
        """
        copy = folder / f"{name}.c"  # the compiler names objects after their source
        lines = [f"#define {macro} {value}" for macro, value in macros]
        lines.append(f'#include "{(KERNELS / source).resolve().as_posix()}"')
        if architecture != "any":
            lines = [f"#if defined(__{architecture}__)", *lines, "#endif"]
        copy.write_text("\n".join([*lines, ""]))
        return self.compiler.compile(
            [os.path.relpath(copy)],
            output_dir=None,
            include_dirs=[str(KERNELS)],
            extra_postargs=flags,
            depends=C_FILES,
        )

    def openmp_flag(self):
        """The flags that make the compiler build OpenMP, found by building a small program."""
        candidates = (
            [["-fopenmp"]] if platform.system() != "Darwin" else [["-fopenmp"], ["-Xpreprocessor", "-fopenmp", "-lomp"]]
        )
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            for flags in candidates:
                command = [*self.compiler.compiler_so[:1], str(source), *flags, "-o", str(Path(folder, "probe"))]
                if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                    return flags
        message = "the compiler cannot build OpenMP: cylstm will run on one thread"
        if os.environ.get("CYLSTM_REQUIRE_OPENMP") == "1":
            raise RuntimeError(f"{message} (CYLSTM_REQUIRE_OPENMP=1 makes that an error)")
        warnings.warn(message, stacklevel=1)
        return []


extensions = [
    Extension(
        f"{PACKAGE}.{name}",
        sources=[str(HERE / f"{name}.pyx")],
        include_dirs=[str(HERE)],
        depends=C_FILES,
    )
    for name in ("_layer", "_lstm")
]
setup(
    ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES),
    cmdclass={"build_ext": BuildKernels},
)
