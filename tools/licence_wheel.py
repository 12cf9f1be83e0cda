"""``licence_wheel.py WHEEL...``: where a repaired wheel carries libgomp, put its licences beside it and name them.

The package itself is BSD-3-Clause and says so alone. A wheel with the OpenMP library of GCC
also says what that one is under.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import zipfile
from pathlib import Path

LICENCES = Path(__file__).parents[1] / "packaging" / "licences"
NOTICE = """{library}, in this wheel, is libgomp, the OpenMP library of GCC of the system that made it.
Copyright Free Software Foundation, Inc. It is free software under the GNU General Public License, version 3 or later,
with the GCC Runtime Library Exception, version 3.1. Both texts are beside this file. Its source is that of GCC.
"""
EXPRESSION = "BSD-3-Clause AND (GPL-3.0-or-later WITH GCC-exception-3.1)"


def add(wheel: Path) -> bool:
    """Whether the wheel carries libgomp; its licences are there then, and the record is right."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info: archive.read(info) for info in archive.infolist()}
    libraries = [info.filename for info in files if re.search(r"\.libs/libgomp[^/]*$", info.filename)]
    if not libraries:
        return False
    (record,) = (info for info in files if info.filename.endswith(".dist-info/RECORD"))
    folder = record.filename.removesuffix("RECORD")
    if any(info.filename == f"{folder}licenses/libgomp/NOTICE.txt" for info in files):
        return True
    new = {path.name: path.read_bytes() for path in sorted(LICENCES.glob("*.txt"))}
    new["NOTICE.txt"] = NOTICE.format(library=libraries[0]).encode()
    for name, data in new.items():
        info = zipfile.ZipInfo(f"{folder}licenses/libgomp/{name}", record.date_time)
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        files[info] = data
    for info, data in files.items():
        if info.filename == f"{folder}METADATA":
            named = "".join(f"License-File: libgomp/{name}\n" for name in new)
            text = re.sub(
                r"^License-Expression: .*\n", f"License-Expression: {EXPRESSION}\n", data.decode(), flags=re.M
            )
            files[info] = re.sub(r"((?:^License-File: .*\n)+)", rf"\1{named}", text, count=1, flags=re.M).encode()
    del files[record]
    rows = [f"{info.filename},{_digest(data)},{len(data)}" for info, data in files.items()]
    files[record] = "\n".join([*rows, f"{record.filename},,", ""]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in files.items():
            archive.writestr(info, data)
    return True


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{Path(name).name}: {'with the licences of libgomp' if add(Path(name)) else 'carries no libgomp'}")
