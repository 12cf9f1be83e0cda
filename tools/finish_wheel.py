"""``finish_wheel.py WHEEL... [--into FOLDER] [--libgomp-from WHERE]``: say inside a wheel what it is made of.

A bill of materials (``.dist-info/sboms/cylstm.cdx.json``, CycloneDX, as PEP 770 has it) in each. Where a repaired wheel
carries libgomp, its licences beside it: the package itself is BSD-3-Clause and says so alone. The same wheel gives the
same bytes, and is left alone the second time.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

LICENCES = Path(__file__).parents[1] / "packaging" / "licences"
NOTICE = """{library}, in this wheel, is libgomp, the OpenMP library of GCC, from {source}.
Copyright Free Software Foundation, Inc. It is free software under the GNU General Public License, version 3 or later,
with the GCC Runtime Library Exception, version 3.1. Both texts are beside this file. Its source is that of GCC.
"""
GCC = "GPL-3.0-or-later WITH GCC-exception-3.1"
HERE = "the system that made it"


def finish(wheel: Path, source: str = HERE) -> str | None:
    """Add what is missing; the library of GCC that the wheel carries, or None."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: (info, archive.read(info)) for info in archive.infolist()}
    library = next((name for name in files if re.search(r"\.libs/libgomp[^/]*$", name)), None)
    (record,) = (info for name, (info, _) in files.items() if name.endswith(".dist-info/RECORD"))
    folder = record.filename.removesuffix("RECORD")
    if f"{folder}sboms/cylstm.cdx.json" in files:
        return library
    new = {}
    if library:
        texts = {f"libgomp/{path.name}": path.read_bytes() for path in sorted(LICENCES.glob("*.txt"))}
        texts["libgomp/NOTICE.txt"] = NOTICE.format(library=library, source=source).encode()
        new = {f"licenses/{name}": data for name, data in texts.items()}
        info, metadata = files[f"{folder}METADATA"]
        files[info.filename] = info, _with_licences(metadata, list(texts))
    bill = _bill(files[f"{folder}METADATA"][1], library, files[library][1] if library else b"", source)
    new["sboms/cylstm.cdx.json"] = (json.dumps(bill, indent=2) + "\n").encode()
    for name, data in new.items():
        info = zipfile.ZipInfo(f"{folder}{name}", record.date_time)
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        files[info.filename] = info, data
    del files[record.filename]
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, (_, data) in files.items()]
    files[record.filename] = record, "\n".join([*rows, f"{record.filename},,", ""]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in files.values():
            archive.writestr(info, data)
    return library


def _with_licences(metadata: bytes, names: list[str]) -> bytes:
    text = metadata.decode()
    text = re.sub(r"^(License-Expression: )(.*)\n", rf"\1\2 AND ({GCC})\n", text, flags=re.M)
    named = "".join(f"License-File: {name}\n" for name in names)
    return re.sub(r"((?:^License-File: .*\n)+)", rf"\1{named}", text, count=1, flags=re.M).encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _bill(metadata: bytes, library: str | None, content: bytes, source: str) -> dict:
    """The bill of materials: no time, no serial number, so that the same wheel has the same one."""
    said = BytesParser().parsebytes(metadata)
    name, version = said["Name"], said["Version"]
    purl = f"pkg:pypi/{name}@{version}"
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "purl": purl,
                "licenses": [{"license": {"id": "BSD-3-Clause"}}],
            }
        },
        "components": [],
        "dependencies": [{"ref": purl, "dependsOn": []}],
    }
    if library:
        component = {
            "type": "library",
            "bom-ref": library,
            "name": "libgomp",
            "description": f"{library}, the OpenMP library of GCC, from {source}",
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}],
            "licenses": [{"expression": GCC}],
        }
        bill["components"].append(component)
        bill["dependencies"] = [{"ref": purl, "dependsOn": [library]}, {"ref": library}]
    return bill


def main() -> int:
    """Finish the wheels of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="finish copies in this folder")
    parser.add_argument("--libgomp-from", default=HERE, metavar="WHERE")
    given = parser.parse_args()
    for wheel in given.wheels:
        if given.into:
            wheel = Path(shutil.copy(wheel, given.into))
        library = finish(wheel, given.libgomp_from)
        print(f"{wheel.name}: bill of materials, {f'licences of {library}' if library else 'carries no other library'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
