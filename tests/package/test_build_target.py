"""The build goes by what the compiler builds for: ``tools/build_target.py``. Wheels with libgomp carry its licences."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("setuptools", reason="setuptools is not installed")
TOOLS = Path(__file__).parents[2] / "tools"
GOMP = "cylstm.libs/libgomp-1234.so.1.0.0"
ARM, HERE = "aarch64-linux-gnu-gcc", "gcc"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


target = load("build_target")
needs_gcc = pytest.mark.skipif(
    shutil.which(HERE) is None or os.uname().machine != "x86_64" if os.name == "posix" else True,
    reason="no gcc of x86-64",
)
needs_arm = pytest.mark.skipif(shutil.which(ARM) is None, reason=f"there is no {ARM}")


def unix(*command: str) -> SimpleNamespace:
    return SimpleNamespace(compiler_type="unix", compiler_so=list(command))


@needs_gcc
def test_the_compiler_says_what_it_builds_for() -> None:
    found = target.target_of(unix(HERE), "linux-x86_64")
    assert (found.system, found.architectures, found.clang_cl) == ("linux", ("x86_64",), False)


@needs_arm
def test_a_cross_compiler_builds_the_kernels_of_its_own_architecture() -> None:
    assert target.target_of(unix(ARM), "linux-aarch64").architectures == ("aarch64",)


@needs_arm
@needs_gcc
@pytest.mark.parametrize(
    ("compiler", "platform"), [(ARM, "linux-x86_64"), (HERE, "linux-aarch64"), (HERE, "win-arm64")]
)
def test_a_wheel_of_another_platform_than_its_name_says_is_refused(compiler: str, platform: str) -> None:
    with pytest.raises(
        target.CompileError, match=f"the compiler must build for {platform}, .* builds for .*: correct CC"
    ):
        target.target_of(unix(compiler), platform)


@needs_gcc
def test_another_architecture_gets_the_generic_kernels_alone() -> None:
    found = target.target_of(unix(HERE, "-m32", "-U__x86_64__"), "linux-riscv64")
    assert found.architectures == ()


def test_a_compiler_that_is_neither_gcc_nor_clang_is_refused(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho '#define __x86_64__ 1'\n")
    compiler.chmod(0o755)
    if os.name == "posix":
        with pytest.raises(target.CompileError, match=r"the C compiler must be GCC or Clang, got .*: name one by"):
            target.target_of(unix(str(compiler)), "linux-x86_64")
    with pytest.raises(target.CompileError, match="must be GCC or Clang, got one of type 'bcpp'"):
        target.prepare_compiler(SimpleNamespace(compiler_type="bcpp"), "win-amd64")


def test_microsofts_compiler_is_clang_cl_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    microsoft = SimpleNamespace(compiler_type="msvc", initialized=True, cc="cl.exe", compile_options=["/GL"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(target.CompileError, match=r"must be clang-cl, .*there is no clang-cl: install LLVM"):
        target.prepare_compiler(microsoft, "win-amd64")
    for name in ("cl", "clang-cl"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    target.prepare_compiler(microsoft, "win-amd64")
    assert microsoft.cc == str(tmp_path / "clang-cl")
    monkeypatch.setenv("CC", str(tmp_path / "cl"))
    with pytest.raises(target.CompileError, match=r"must be clang-cl, .*, got CC=.*: unset CC"):
        target.prepare_compiler(microsoft, "win-amd64")


def test_a_slice_of_a_universal_binary_is_compiled_alone() -> None:
    both = ["clang", "-arch", "arm64", "-g0", "-arch", "x86_64", "-fPIC"]
    compiler = unix(*both)
    for architecture, name in (("x86_64", "x86_64"), ("aarch64", "arm64")):
        with target.slices(compiler, architecture):
            assert compiler.compiler_so == [
                "clang",
                *(["-arch", name, "-g0"] if name == "arm64" else ["-g0", "-arch", name]),
                "-fPIC",
            ]
        assert compiler.compiler_so == both
    with target.slices(compiler, "any"):
        assert compiler.compiler_so == both


def test_a_universal_wheel_needs_both_slices() -> None:
    target._compare(("aarch64", "x86_64"), "macosx-11.0-universal2", ["clang"])
    with pytest.raises(target.CompileError, match=r"must build for macosx-11.0-universal2"):
        target._compare(("aarch64",), "macosx-11.0-universal2", ["clang"])


def wheel_with(folder: Path, *libraries: str) -> Path:
    """A wheel of a few bytes, as auditwheel leaves one."""
    path = folder / "cylstm-1.0-cp311-abi3-manylinux_2_34_x86_64.whl"
    info = "cylstm-1.0.dist-info"
    metadata = "Name: cylstm\nVersion: 1.0\nLicense-Expression: BSD-3-Clause\nLicense-File: LICENSE\n\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*libraries, f"{info}/licenses/LICENSE"):
            archive.writestr(name, name)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_a_wheel_with_libgomp_carries_its_licences(tmp_path: Path) -> None:
    finish_wheel = load("finish_wheel")
    wheel = wheel_with(tmp_path, GOMP)
    assert finish_wheel.finish(wheel, "somewhere") == GOMP
    once = wheel.read_bytes()
    assert finish_wheel.finish(wheel) == GOMP  # again: nothing changes
    assert wheel.read_bytes() == once
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read("cylstm-1.0.dist-info/METADATA").decode()
        record = archive.read("cylstm-1.0.dist-info/RECORD").decode()
        notice = archive.read("cylstm-1.0.dist-info/licenses/libgomp/NOTICE.txt").decode()
        bill = json.loads(archive.read("cylstm-1.0.dist-info/sboms/cylstm.cdx.json"))
    assert f"{GOMP}, in this wheel, is libgomp, the OpenMP library of GCC, from somewhere." in notice
    assert "License-Expression: BSD-3-Clause AND (GPL-3.0-or-later WITH GCC-exception-3.1)\n" in metadata
    assert [row.split(",")[0] for row in record.split()] == names
    texts = [name for name in names if "/licenses/libgomp/" in name]
    assert len(texts) == 3
    assert [name for name in texts if f"License-File: libgomp/{Path(name).name}\n" not in metadata] == []
    (component,) = bill["components"]
    assert component["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(GOMP.encode()).hexdigest()}]
    assert component["licenses"] == [{"expression": "GPL-3.0-or-later WITH GCC-exception-3.1"}]


def test_a_wheel_without_libgomp_gets_a_bill_of_materials_alone(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path, "cylstm/_lstm.abi3.so")
    before = set(zipfile.ZipFile(wheel).namelist())
    assert load("finish_wheel").finish(wheel) is None
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) - before == {"cylstm-1.0.dist-info/sboms/cylstm.cdx.json"}
        metadata = archive.read("cylstm-1.0.dist-info/METADATA").decode()
        bill = json.loads(archive.read("cylstm-1.0.dist-info/sboms/cylstm.cdx.json"))
    assert "License-Expression: BSD-3-Clause\n" in metadata
    assert bill["components"] == []
    assert bill["metadata"]["component"]["purl"] == "pkg:pypi/cylstm@1.0"


def test_the_bills_of_a_wheel_are_cyclonedx_and_name_each_library(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    faults = load("check_bill").faults
    wheel = wheel_with(tmp_path, GOMP)
    assert faults(wheel) == ["there is no cylstm.cdx.json", f"{GOMP} is in no bill"]
    load("finish_wheel").finish(wheel)
    assert faults(wheel) == []
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("cylstm.libs/libother.so", "of somebody")
        archive.writestr("cylstm-1.0.dist-info/sboms/wrong.cdx.json", json.dumps({"specVersion": "1.6"}))
    wrong, other = faults(wheel)
    assert wrong.startswith("cylstm-1.0.dist-info/sboms/wrong.cdx.json is not CycloneDX 1.6: ")
    assert other == "cylstm.libs/libother.so is in no bill"
