"""The operating system is named in one place: ``parallel/system.h``, its folder, and ``kernels/processor.h``."""

from __future__ import annotations

import re
from pathlib import Path

COMPILED = Path(__file__).parents[2] / "src" / "cylstm" / "backends" / "cython_backend"
PORTABLE = {"assert.h", "float.h", "limits.h", "math.h", "stddef.h", "stdint.h", "stdlib.h", "string.h"}
COMPILERS = {"immintrin.h", "arm_neon.h", "omp.h", "Python.h"}
SYSTEM = re.compile(
    r"\b(__linux__|__APPLE__|_WIN32|_MSC_VER|__unix__|pthread_\w+|sched_\w+|syscall|SYS_\w+|getpid|gettid|futex\w*"
    r"|clock_gettime|nanosleep|usleep|getauxval|sysctl\w*|__builtin_cpu_\w+|__thread|cpu_set_t|_GNU_SOURCE)\b"
)

FUNCTIONS = {
    "nanoseconds",
    "process_id",
    "thread_id",
    "thread_time",
    "keep_processor",
    "is_main_thread",
    "yield_processor",
    "sleep_on",
    "wake_all",
    "this_processor",
    "allowed_processors",
    "remove_processor",
    "count_processors",
    "allow_processors",
    "thread_start",
    "thread_join",
    "thread_ends_init",
    "call_at_thread_end",
}


def sources() -> dict[str, str]:
    """Every source of the compiled module without its comments, by its path, but those that may name the system."""
    found = {}
    for path in COMPILED.rglob("*"):
        name = path.relative_to(COMPILED).as_posix()
        generated = path.suffix == ".c" and path.with_suffix(".pyx").exists()
        if path.suffix in {".h", ".c", ".def", ".pyx", ".pxd"} and not generated and not is_system(name):
            found[name] = re.sub(
                r"/\*.*?\*/|(?<=\n) *#(?! *\w+ *[<\"(]?)[^\n]*", "", path.read_text("utf-8"), flags=re.S
            )
    return found


def is_system(name: str) -> bool:
    return name in {"parallel/system.h", "kernels/processor.h"} or name.startswith("parallel/system/")


def test_the_sources_are_found() -> None:
    names = set(sources())
    assert {"parallel/region.h", "parallel/halt.h", "kernels/select.c", "_lstm.pyx", "_call.pxd"} <= names
    assert not any(is_system(name) for name in names)
    for name in ("linux", "macos", "windows", "posix"):
        assert (COMPILED / "parallel" / "system" / f"{name}.h").exists()


def test_only_the_portable_layer_includes_headers_of_a_system() -> None:
    included = {
        (name, header)
        for name, text in sources().items()
        for header in re.findall(r'#\s*include\s*<([^>]+)>|cdef extern from "<?([\w./]+\.h)>?"', text)
        for header in header
        if header and not (COMPILED / header).exists()
    }
    assert {header for _, header in included} >= {"string.h", "immintrin.h"}  # they are found
    assert {(name, header) for name, header in included if header not in PORTABLE | COMPILERS} == set()


def test_cython_takes_nothing_of_a_system_either() -> None:
    taken = {
        (name, module)
        for name, text in sources().items()
        for module in re.findall(r"from (posix[\w.]*|libc\.(?!stdint|stdlib|string|math)\w+|openmp) cimport", text)
    }
    assert taken == set()


def test_only_the_portable_layer_names_a_system() -> None:
    named = {(name, word) for name, text in sources().items() for word in SYSTEM.findall(text)}
    assert named == set()


def test_what_is_looked_for_stands_in_the_portable_layer() -> None:
    """Else the words above would be found nowhere, whatever the sources say."""
    text = "\n".join(
        p.read_text("utf-8") for p in [*(COMPILED / "parallel").rglob("*.h"), *COMPILED.glob("*/processor.h")]
    )
    assert {"__linux__", "__APPLE__", "_WIN32", "pthread_create", "sched_yield", "syscall"} <= set(SYSTEM.findall(text))


def test_each_system_gives_all_that_system_h_lists() -> None:
    head = (COMPILED / "parallel" / "system.h").read_text("utf-8")
    folder = COMPILED / "parallel" / "system"
    posix = (folder / "posix.h").read_text("utf-8")
    assert [name for name in FUNCTIONS if not re.search(rf"\b{name}\b", head)] == []
    for name in ("linux", "macos", "windows"):
        text = (folder / f"{name}.h").read_text("utf-8")
        text += posix if '"posix.h"' in text else ""
        defined = set(re.findall(r"^static (?:inline )?[\w ]+?\b(\w+)\(", text, re.M))
        assert FUNCTIONS - defined == set(), name
        assert re.search(r"\bProcessorSet;", text)
        assert re.search(r"\} StartedThread;", text)
