"""What we declare of NCCL, against NVIDIA's own header and library: `make nccl` fetches them, no GPU is needed."""

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tvm_ffi.libinfo

from minisgl.compile import sources, toolchain

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
CONTRACT = FOLDER / "nccl_header.cpp"
OURS = "include/minisgl/nccl_api.h"


def packages() -> Iterator[Path]:
    """Yield every nvidia/nccl there is: those that `make nccl` puts below build/, and an installed one."""
    spec = importlib.util.find_spec("nvidia")
    installed = spec.submodule_search_locations if spec else None
    for nvidia in [*sorted(ROOT.glob("build/nccl/*/nvidia")), *map(Path, installed or [])]:
        if (nvidia / "nccl/include/nccl.h").is_file():
            yield nvidia / "nccl"


@pytest.fixture(params=["cu12", "cu13", "installed"])
def nccl(request: pytest.FixtureRequest) -> Path:
    """Return the folder of one NCCL."""
    for package in packages():
        fetched = package.parents[2] == ROOT / "build/nccl"
        if request.param == (package.parents[1].name if fetched else "installed"):
            return package
    pytest.skip("nvidia-nccl is not installed here" if request.param == "installed" else "no NCCL here: make nccl")


def compile_cpp(source: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Compile for the CPU target: only the name of cudaStream_t matters, so no CUDA toolkit is needed."""
    own = sources.find_source(OURS).parents[2]
    includes = [f"-I{own / 'host'}", f"-I{own / 'include'}", f"-I{tvm_ffi.libinfo.find_dlpack_include_path()}"]
    command = [toolchain.find_host_compiler().path, "-std=c++20", *flags, *includes, source]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_every_declaration_agrees_with_nvidias_header(nccl: Path) -> None:
    result = compile_cpp(CONTRACT, "-fsyntax-only", "-Wall", "-Werror", f"-I{nccl / 'include'}")
    assert result.returncode == 0, result.stderr


def test_nothing_that_we_declare_is_left_out() -> None:
    ours, contract = sources.find_source(OURS).read_text(), CONTRACT.read_text()
    constants = set(re.findall(r"\b(k[A-Z]\w*) =", ours))
    assert constants == set(re.findall(r"SAME_VALUE\((k\w+),", contract))
    config = ours[ours.index("struct Config {") : ours.index("struct Api {")]
    fields = set(re.findall(r"(\w+) = [^;]+;", config))
    assert fields == set(re.findall(r"^SAME_(?:FIELD|DEFAULT)\((\w+),", contract, re.MULTILINE))
    assert len(fields) == 9
    api = ours[ours.index("struct Api {") : ours.index("has_windows() const")]
    functions = re.findall(r"\(\*(\w+)\)\(", api)
    assert set(functions) == set(re.findall(r"SAME_FUNCTION\((\w+)\);", contract))
    assert sorted(re.findall(r'find\("nccl(\w+)", api\.(\w+)', ours)) == sorted(zip(functions, functions, strict=True))


MUTANTS = [
    ("kRemoteError = 6", "kRemoteError = 7"),
    ("kProd = 1, kMax = 2", "kProd = 2, kMax = 1"),
    ("kBfloat16 = 9", "kBfloat16 = 10"),
    ("enum DataType : int {", "enum DataType : short {"),
    ("kWinCollSymmetric = 1", "kWinCollSymmetric = 2"),
    ("kUndefined = INT_MIN", "kUndefined = INT_MAX"),
    ("major * 10000", "major * 1000"),
    ("char internal[128]", "char internal[127]"),
    ("0xcafebeef", "0xcafebabe"),
    ("int blocking = 1", "int blocking = 0"),
    ("int blocking = 1", "long blocking = 1"),
    ("int min_ctas = kUndefined;\n  int max_ctas", "int max_ctas = kUndefined;\n  int min_ctas"),
    ("  const char* net_name = nullptr;\n", ""),
    ("  int split_share = kUndefined;\n", "  int split_share = kUndefined;\n  long more = 0;\n"),
    ("(*CommInitRankConfig)(Comm*, int, UniqueId, ", "(*CommInitRankConfig)(Comm*, int, UniqueId*, "),
    ("(*CommSplit)(Comm, int, int, Comm*, Config*)", "(*CommSplit)(Comm, int, int, Config*, Comm*)"),
    (
        "(*AllReduce)(const void*, void*, size_t, DataType, RedOp,",
        "(*AllReduce)(const void*, void*, size_t, RedOp, DataType,",
    ),
    ("(*ReduceScatter)(const void*, void*,", "(*ReduceScatter)(void*, const void*,"),
    ("(*Broadcast)(const void*, void*, size_t", "(*Broadcast)(const void*, void*, int"),
    ("(*Recv)(void*, size_t, DataType, int, Comm", "(*Recv)(void*, size_t, DataType, Comm, int"),
    ("(*CommWindowRegister)(Comm, void*, size_t, Window*,", "(*CommWindowRegister)(Comm, void*, size_t, Window,"),
    ("Result (*CommAbort)(Comm)", "void (*CommAbort)(Comm)"),
    ("const char* (*GetLastError)(Comm)", "const char* (*GetLastError)(Window)"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant[1].strip()[:40])
def test_a_wrong_declaration_does_not_compile(mutant: tuple[str, str], tmp_path: Path) -> None:
    package = next(packages(), None)
    if package is None:
        pytest.skip("no NCCL here: make nccl")
    text = sources.find_source(OURS).read_text()
    assert text.count(mutant[0]) == 1
    mutated = tmp_path / "minisgl/nccl_api.h"
    mutated.parent.mkdir()
    mutated.write_text(text.replace(*mutant))
    result = compile_cpp(CONTRACT, "-fsyntax-only", f"-I{tmp_path}", f"-I{package / 'include'}")
    assert result.returncode != 0
    assert re.search(
        r"nccl_header\.cpp:\d+:\d+: error: (static assertion|.*is not a member|.*has no member)", result.stderr
    )


ASK = r"""
#include <minisgl/nccl_api.h>

#include <cstdio>

int main(int, char** arguments) {
  using namespace minisgl::nccl;
  const Api api = open_library(arguments[1]);
  std::printf("%s %d\n", version_text(api.version).c_str(), api.has_windows());
  for (int code = kSuccess; code <= kInProgress; ++code) std::puts(api.GetErrorString(static_cast<Result>(code)));
}
"""


def test_the_library_opens_without_a_gpu(nccl: Path, tmp_path: Path) -> None:
    source, program = tmp_path / "ask.cpp", tmp_path / "ask"
    source.write_text(ASK)
    compiled = compile_cpp(source, "-o", str(program))
    assert compiled.returncode == 0, compiled.stderr
    library = nccl / "lib/libnccl.so.2"
    answer = subprocess.run([program, library], capture_output=True, text=True, timeout=60, check=True)
    version, *errors = answer.stdout.splitlines()
    header = (nccl / "include/nccl.h").read_text()
    number = [re.search(rf"#define NCCL_{part}\s+(\d+)", header) for part in ("MAJOR", "MINOR", "PATCH")]
    text = ".".join(match[1] for match in number if match)
    assert version == f"{text} {int(tuple(map(int, text.split('.'))) >= (2, 27, 3))}"
    words = ("no error", "cuda", "system", "internal", "invalid argument", "invalid usage", "remote", "in progress")
    assert len(errors) == len(words)
    for error, word in zip(errors, words, strict=True):
        assert word in error
