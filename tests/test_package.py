"""What importing the package brings along."""

import subprocess
import sys


def test_the_kernels_need_torch_and_tvm_ffi_alone() -> None:
    extras = {"IPython", "jupytext", "matplotlib", "nbclient", "nbformat", "typer"}
    code = f"import sys, minisgl.kernel; print(sorted({extras!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "[]\n"


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, minisgl; print('torch' in sys.modules, minisgl.__version__)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "False 0.1.0\n"
