"""Finding compilers, and what is said when there is none."""

from pathlib import Path

import pytest
import torch

from minisgl.compile import ToolchainError, targets, toolchain

NOTHING_FOUND = 'No CUDA compiler found: pip install "minisgl[nvcc]", or install the CUDA toolkit and set CUDA_HOME.'


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain, "pypi_toolkit", lambda: None)
    return tmp_path


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(0o755)
    return path


def test_no_cuda_compiler(no_cuda: Path) -> None:
    with pytest.raises(ToolchainError) as caught:
        toolchain.find_cuda_compiler()
    assert str(caught.value) == NOTHING_FOUND


def test_cuda_home_comes_first(no_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(no_cuda / "nvcc")
    nvcc = executable(no_cuda / "toolkit" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(no_cuda / "toolkit"))
    assert toolchain.find_cuda_compiler().path == nvcc


def test_a_broken_cuda_home(no_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    with pytest.raises(ToolchainError, match=r"CUDA_HOME is '/nowhere', which holds no bin/nvcc; unset it or point it"):
        toolchain.find_cuda_compiler()


def test_nvcc_on_path(no_cuda: Path) -> None:
    nvcc = executable(no_cuda / "nvcc")
    assert toolchain.find_cuda_compiler().path == nvcc


def test_an_incomplete_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "nvidia" / "cu13" / "bin" / "nvcc")
    monkeypatch.setattr(toolchain, "_nvidia_folders", lambda: [tmp_path / "nvidia"])
    with pytest.raises(ToolchainError, match=r'is incomplete \(bin/ptxas, nvvm/bin/cicc\): pip install "minisgl'):
        toolchain.pypi_toolkit()


def test_a_toolkit_without_libcudart_so_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISGL_CACHE_DIR", str(tmp_path / "cache"))
    nvcc = executable(tmp_path / "cu13" / "bin" / "nvcc")
    runtime = executable(tmp_path / "cu13" / "lib" / "libcudart.so.13")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cu13"))
    compiler = toolchain.find_cuda_compiler()
    assert compiler.path == nvcc
    folder = Path(compiler.flags[0].removeprefix("-L"))
    assert (folder / "libcudart.so").resolve() == runtime


def test_no_host_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"No C\+\+ compiler found: install g\+\+"):
        toolchain.find_host_compiler()
    clang = executable(tmp_path / "clang++")
    assert toolchain.find_host_compiler().path == clang
    gcc = executable(tmp_path / "g++")
    assert toolchain.find_host_compiler().path == gcc


def test_a_wrong_cxx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolchainError, match="CXX is set to 'no-such-compiler', which is not a command"):
        toolchain.find_host_compiler()


@pytest.mark.parametrize(("value", "arch"), [("sm_90", "sm_90"), ("9.0", "sm_90"), ("90", "sm_90"), ("10.0", "sm_100")])
def test_arch_from_the_environment(value: str, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISGL_CUDA_ARCH", value)
    assert targets.cuda_arch() == arch


def test_no_gpu_and_no_arch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINISGL_CUDA_ARCH", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ToolchainError, match="No GPU to compile for: set MINISGL_CUDA_ARCH, for example to sm_90"):
        targets.cuda_arch()


@pytest.mark.parametrize("arch", ["hopper", "sm_", "90", "sm_9x"])
def test_a_wrong_arch(arch: str) -> None:
    with pytest.raises(ValueError, match=f"cuda_target: arch: expected an architecture such as 'sm_90', got '{arch}'"):
        targets.cuda_target(arch)


def test_the_address_sanitizer_needs_a_preload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISGL_SANITIZE", "address")
    with pytest.raises(ToolchainError, match=r"MINISGL_SANITIZE=address: its library, .* must be loaded before"):
        targets.host_target()


def test_a_wrong_sanitizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISGL_SANITIZE", "memory")
    with pytest.raises(
        ValueError, match="MINISGL_SANITIZE: expected address or undefined or both with a comma, got 'memory'"
    ):
        targets.host_target()
