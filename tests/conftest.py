"""What all tests share."""

import os

import pytest

from minisgl.compile import toolchain


@pytest.fixture(scope="session", autouse=True)
def pypi_cuda_toolkit() -> None:
    """Compile with the toolkit of the extra [nvcc], whatever else this machine has: a reader may have nothing else."""
    if toolkit := toolchain.pypi_toolkit():
        os.environ["CUDA_HOME"] = str(toolkit)
