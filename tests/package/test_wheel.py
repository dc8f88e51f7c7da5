"""The package as others get it: an sdist, the wheel that is built from it, and where that wheel has to work."""

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import minisgl
from minisgl.compile import cache, prebuilt

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet"]
OFFLINE = ["--no-deps", "--no-build-isolation"]

# What a visitor without a compiler does: import everything, compare, use the prefix cache, ask for a lookup.
VISIT = """
import json, torch, minisgl.kernel, minisgl.kvcache, minisgl.microscope
from minisgl.kernel import fast_compare_key, indexing

long = torch.arange(1000)
lengths = [fast_compare_key(long.to(dtype), torch.cat([long[:n], long[:1] - 7]).to(dtype))
           for dtype in (torch.int32, torch.int64) for n in (0, 1, 63, 999)]
cache = minisgl.kvcache.RadixPrefixCache("cpu")
cache.insert_prefix(torch.tensor([1, 2, 3]), torch.tensor([30, 20, 10]))
matched = cache.match_prefix(torch.tensor([1, 2, 9])).handle.get_matched_indices().tolist()
try:
    looked_up = indexing(torch.eye(3), torch.tensor([2])).tolist()
except Exception as error:
    looked_up = f"{type(error).__name__}: {error}"
print(json.dumps([minisgl.__file__, lengths, matched, looked_up]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an sdist, and a wheel from it with a `ccache` on PATH that notes its calls; once, however many workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINISGL_CACHE_DIR", str(shared / "packages"))
        return cache.get_or_build("built", "done", _build_both).parent


def _build_both(folder: Path) -> None:
    sdist = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", sdist], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    ccache = folder / "bin" / "ccache"
    ccache.parent.mkdir()
    ccache.write_text(f'#!/bin/sh\necho "$@" >> {folder}/ccache.log\nexec "$@"\n')
    ccache.chmod(0o755)
    path = f"{ccache.parent}{os.pathsep}{os.environ['PATH']}"
    command = [*PIP, "wheel", *OFFLINE, "--wheel-dir", str(folder), str(only(folder, "*.tar.gz"))]
    subprocess.run(command, env=os.environ | {"PATH": path}, check=True)
    (folder / "done").write_text("done")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return the interpreter of a new environment that has PyTorch and TVM-FFI from this one's site-packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    site = only(tmp_path, "venv/lib/python*/site-packages")
    (site / "of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / "venv" / "bin" / "python"


def only(folder: Path, pattern: str) -> Path:
    [path] = folder.glob(pattern)
    return path


def install(python: Path, *what: str) -> None:
    subprocess.run([*PIP, "--python", str(python), "install", "--force-reinstall", *OFFLINE, *what], check=True)


def run(python: Path, code: str, path: str | None = None) -> Any:
    """Run code in an empty directory, with an empty PATH by default and a build cache of its own; return its JSON."""
    empty, store = python.parents[2] / "empty", python.parents[2] / "cache"
    empty.mkdir(exist_ok=True)
    unset = ("CXX", "CUDA_HOME", "LD_PRELOAD", "MINISGL_SANITIZE", "PYTHONPATH")
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    variables |= {"PATH": path or str(empty), "MINISGL_CACHE_DIR": str(store), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [python, "-c", code], cwd=empty, env=variables, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(result.stdout)


def test_the_wheel_is_for_every_python_of_this_platform(built: Path) -> None:
    wheel = only(built, "*.whl")
    assert wheel.name == f"minisgl-{minisgl.__version__}-py3-none-linux_{platform.machine()}.whl"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"minisgl-{minisgl.__version__}.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false" in text


def test_what_is_in_the_wheel(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "minisgl").rglob("*.py")}
    sources = {f"minisgl/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    library = prebuilt.file_name("radix", ["src/radix.cpp"], [tmp_path / "minisgl" / "csrc"])
    expected = modules | sources | {f"minisgl/prebuilt/{library}"}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert f"minisgl-{minisgl.__version__}.dist-info/licenses/LICENSE" in names


def test_what_is_in_the_sdist(built: Path) -> None:
    with tarfile.open(only(built, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("CMakeLists.txt", "Makefile", "csrc/src/radix.cpp", "notebooks/13_kernels_become_a_package.md"):
        assert path in names
    assert "tests/package/test_wheel.py" in names
    assert not [
        name
        for name in names
        if name.startswith((".git", ".venv", "build/", "site/", "docs/chapters")) or ".pyc" in name
    ]


def test_ccache_is_used_where_it_is(built: Path) -> None:
    calls = (built / "ccache.log").read_text().splitlines()
    assert [call for call in calls if "csrc/src/radix.cpp" in call and " -O3 " in call and "-march" not in call]


def test_the_library_belongs_to_no_python(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as archive:
        library = next(name for name in archive.namelist() if name.endswith(".so"))
        file = archive.extract(library, tmp_path)

    def names(kind: str) -> list[str]:
        listed = subprocess.run(["nm", "-DP", kind, file], check=True, capture_output=True, text=True)
        return [line.split()[0] for line in listed.stdout.splitlines()]

    shown = names("--defined-only")
    assert "__tvm_ffi_fast_compare_key" in shown
    assert not [name for name in shown if "minisgl" in name and not name.startswith("__tvm_ffi_")]
    asked_for = names("--undefined-only")
    assert "TVMFFIErrorSetRaisedFromCStrParts" in asked_for
    assert not [name for name in asked_for if name.startswith(("Py", "_Py", "THP"))]


def test_without_a_compiler(built: Path, python: Path) -> None:
    install(python, str(only(built, "*.whl")))
    where, lengths, matched, looked_up = run(python, VISIT)
    assert Path(where).is_relative_to(python.parents[1])
    assert lengths == [0, 1, 63, 999] * 2
    assert matched == [30, 20]
    assert looked_up == (
        "ToolchainError: No C++ compiler found: install g++ (Debian and Ubuntu: apt install g++) or set CXX."
    )
    assert not (python.parents[2] / "cache").exists()

    with only(python.parents[1], "lib/python*/site-packages/minisgl/csrc/src/radix.cpp").open("a") as source:
        source.write("// edited\n")
    ask = (
        "import json, torch\nfrom minisgl.kernel import fast_compare_key\n"
        "try: fast_compare_key(torch.arange(3), torch.arange(3))\n"
        "except Exception as error: print(json.dumps(f'{type(error).__name__}: {error}'))\n"
    )
    assert run(python, ask).startswith(
        "ToolchainError: load_aot: radix: no library for its sources came with the package. "
        "No C++ compiler found: install g++"
    )


def test_with_a_compiler_kernels_are_built_from_the_wheels_sources(built: Path, python: Path) -> None:
    install(python, str(only(built, "*.whl")))
    _, lengths, _, looked_up = run(python, VISIT, path=os.environ["PATH"])
    assert looked_up == [[0, 0, 1]]
    assert lengths == [0, 1, 63, 999] * 2
    names = {path.name for path in (python.parents[2] / "cache").rglob("*.so")}
    assert [name for name in names if name.startswith("index")]
    assert "radix.so" not in names


def test_an_editable_install_follows_edits(built: Path, python: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(only(built, "*.tar.gz"), tmp_path / "checkout")
    checkout = only(tmp_path, "checkout/*")
    install(python, "--editable", str(checkout))
    module = checkout / "minisgl" / "__init__.py"
    module.write_text(module.read_text().replace(minisgl.__version__, "9.9.9"))
    with (checkout / "csrc" / "src" / "radix.cpp").open("a") as source:
        source.write("int64_t answer() { return 42; }\nMINISGL_EXPORT(answer, answer);\n")
    code = (
        "import json, minisgl\nfrom minisgl.kernel.utils import load_aot\n"
        "answer = load_aot('radix', cpp_files=['radix.cpp']).answer()\n"
        "print(json.dumps([minisgl.__file__, minisgl.__version__, answer]))"
    )
    where, version, answer = run(python, code, path=os.environ["PATH"])
    assert (Path(where), version, answer) == (module, "9.9.9", 42)
