"""Build of the compiled backend. Everything else about the package stands in pyproject.toml.

One extension module, ``cylstm.backends.cython_backend._lstm``, and one object file of C tiles per instruction set and precision, from
which the program chooses when it runs. Environment variables: CYLSTM_REQUIRE_OPENMP=1 makes a compiler without OpenMP
an error instead of a warning.
"""

import os
import platform
import subprocess
import tempfile
import warnings
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path("src/cylstm/backends/cython_backend")
KERNELS = HERE / "kernels"
HEADERS = [*sorted(str(p) for p in KERNELS.glob("*.h")), str(HERE / "_openmp.h")]
# -O3 without -ffast-math: the order of every sum is part of the result. -ffp-contract=off: a fused multiply-add only
# where the source says so. -g0: the wheel is a quarter of the size.
FLAGS = ["-O3", "-g0", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
ISA_FLAGS = {"generic": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-DISA_AVX2"]
    ISA_FLAGS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-DISA_AVX512"]


class BuildKernels(build_ext):
    """Compile the C tiles once per instruction set, then the Cython module with them."""

    def build_extension(self, ext):
        flags = [*FLAGS, *os.environ.get("CYLSTM_CFLAGS", "").split()]
        openmp = self.openmp_flag()
        ext.extra_compile_args = [*flags, *openmp]
        ext.extra_link_args = openmp
        folder = Path(self.build_temp) / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        objects = []
        for isa, isa_flags in ISA_FLAGS.items():
            for double in (0, 1):
                macros = [("ISA_NAME", isa), ("DOUBLE", str(double))]
                objects += self.compile_as(
                    "tile.c", f"tile_{isa}_{'float64' if double else 'float32'}", folder, macros, [*flags, *isa_flags]
                )
        objects += self.compile_as("probe.c", "probe", folder, [], flags)
        ext.extra_objects = objects
        super().build_extension(ext)

    def compile_as(self, source, name, folder, macros, flags):
        """Compile one C file into an object of a name of its own."""
        copy = folder / f"{name}.c"  # the compiler names objects after their source
        copy.write_text(f'#include "{(KERNELS / source).resolve().as_posix()}"\n')
        return self.compiler.compile(
            [str(copy)],
            output_dir=None,
            macros=macros,
            include_dirs=[str(KERNELS)],
            extra_postargs=flags,
            depends=HEADERS,
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


extension = Extension(
    "cylstm.backends.cython_backend._lstm",
    sources=[str(HERE / "_lstm.pyx")],
    include_dirs=[str(HERE)],
    depends=[
        *HEADERS,
        *map(str, HERE.glob("*.pxi")),
        *map(str, HERE.glob("*.pxd")),
        str(KERNELS / "tile.c"),
        str(KERNELS / "probe.c"),
    ],
)
setup(
    ext_modules=cythonize([extension], compiler_directives={"language_level": "3"}),
    cmdclass={"build_ext": BuildKernels},
)
