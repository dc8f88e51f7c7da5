"""Where a kernel's tests run: on the CPU, and on a GPU where there is one."""

from collections.abc import Iterator

import pytest
import torch

from minisgl.compile import sources


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here; the same source is tested on the CPU")
    return request.param


@pytest.fixture
def unchecked(device: str) -> Iterator[str]:
    """Return the device; on the CPU nobody looks at indices before a launch, as nobody can for a GPU."""
    if device == "cpu":
        text, check = sources.find_source("include/minisgl/row_checks.h").read_text(), "first <= index && index < end"
        assert text.count(check) == 1
        sources.set_overlay("csrc/include/minisgl/row_checks.h", text.replace(check, "true"))
    yield device
    sources.clear_overlays()
