"""``wine_numpy.py SITE``: let NumPy's wheel for Windows run under Wine, whose C library has no complex functions.

What NumPy takes from the C library's part for mathematics comes from a library made here: it passes on what Wine has,
and computes the complex functions plainly. Needs ziglang and pefile. NumPy alone is changed, in a folder for tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pefile

THEIRS, OURS = b"api-ms-win-crt-math-l1-1-0.dll", b"for-tests-under-wine-math0.dll"
COMPLEX = {
    "real": "x",
    "imag": "y",
    "arg": "atan2(y, x)",
    "abs": "hypot(x, y)",
    "exp": "pair(exp(x) * cos(y), exp(x) * sin(y))",
    "sin": "pair(sin(x) * cosh(y), cos(x) * sinh(y))",
    "cos": "pair(cos(x) * cosh(y), -sin(x) * sinh(y))",
    "sinh": "pair(sinh(x) * cos(y), cosh(x) * sin(y))",
    "cosh": "pair(cosh(x) * cos(y), sinh(x) * sin(y))",
    "tan": "pair(sin(x) * cosh(y), cos(x) * sinh(y)) / pair(cos(x) * cosh(y), -sin(x) * sinh(y))",
    "tanh": "pair(sinh(x) * cos(y), cosh(x) * sin(y)) / pair(cosh(x) * cos(y), sinh(x) * sin(y))",
}
NUMBERS = {"real", "imag", "arg", "abs"}
HEAD = """double atan2(double, double), hypot(double, double), exp(double), log(double), sin(double), cos(double),
    sinh(double), cosh(double);
static double _Complex pair(double x, double y) { return x + y * 1.0i; }
static double _Complex power(double _Complex a, double _Complex b)
{
    double x = __real__ a, y = __imag__ a;
    double _Complex e = b * pair(log(hypot(x, y)), atan2(y, x));
    return pair(exp(__real__ e) * cos(__imag__ e), exp(__real__ e) * sin(__imag__ e));
}
"""


def main(site: Path) -> None:
    names: set[str] = set()
    for path in [p for p in site.rglob("*") if p.suffix in (".pyd", ".dll") and "numpy" in str(p.relative_to(site))]:
        image = pefile.PE(str(path), fast_load=True)
        image.parse_data_directories([pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_IMPORT"]])
        for library in getattr(image, "DIRECTORY_ENTRY_IMPORT", []):
            if library.dll.lower() == THEIRS:
                names.update(function.name.decode() for function in library.imports)
        image.close()
        path.write_bytes(path.read_bytes().replace(THEIRS, OURS))
    code, exports = HEAD, f"LIBRARY {OURS.decode()}\nEXPORTS\n"
    for name in sorted(names):
        found = re.fullmatch(rf"c({'|'.join(COMPLEX)}|pow)(f?)", name)
        if found is None or name in {"cos", "cosf", "cosh", "coshf"}:
            exports += f"    {name} = ucrtbase.{name}\n"
            continue
        kind = "float" if found[2] else "double"
        result = kind if found[1] in NUMBERS else f"{kind} _Complex"
        if found[1] == "pow":
            code += f"{result} {name}({result} a, {result} b) {{ return power(a, b); }}\n"
        else:
            code += f"{result} {name}({kind} _Complex z)\n{{\n    double x = __real__ z, y = __imag__ z;\n"
            code += f"    (void)x, (void)y;\n    return {COMPLEX[found[1]]};\n}}\n"
        exports += f"    {name}\n"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "math.c").write_text(code)
        Path(folder, "math.def").write_text(exports)
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu", "-fno-builtin", "-shared", "-w"]
        command = [*zig, "math.c", "math.def", "-o", str((site / "numpy.libs" / OURS.decode()).resolve())]
        subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
