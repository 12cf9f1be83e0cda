"""``check_bill.py WHEEL...``: the bills of materials of a wheel are CycloneDX, and name every library it carries.

Needs ``cyclonedx-python-lib[json-validation]``. Exits with 1 where one is not, or a library is in none.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def faults(wheel: Path) -> list[str]:
    """What is wrong with the bills of one wheel."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    bills = {name: data.decode() for name, data in files.items() if ".dist-info/sboms/" in name}
    carried = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if ".libs/" in name}
    found, named = [], set()
    for name, text in bills.items():
        bill = json.loads(text)
        version = SchemaVersion[f"V{bill['specVersion'].replace('.', '_')}"]
        if error := JsonStrictValidator(version).validate_str(text):
            found.append(f"{name} is not CycloneDX {bill['specVersion']}: {error}")
        for component in bill.get("components", []):
            named |= {hash["content"] for hash in component.get("hashes", [])}
    if not any(name.endswith("/cylstm.cdx.json") for name in bills):
        found.append("there is no cylstm.cdx.json")
    return found + [f"{name} is in no bill" for name, digest in carried.items() if digest not in named]


def main() -> int:
    """Print what is wrong."""
    found = [f"{Path(wheel).name}: {fault}" for wheel in sys.argv[1:] for fault in faults(Path(wheel))]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
