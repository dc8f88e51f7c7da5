"""Run a test's kernels on the CPU target, in several thread orders, and on a GPU where there is one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import tvm_ffi

from minisgl.kernel.utils import load_jit

ORDERS = ("forward", "reverse", "shuffle:1", "shuffle:2")


@dataclass(frozen=True)
class Machine:
    """What the kernels of one test run on. `device` is that of its tensors."""

    device: str
    monkeypatch: pytest.MonkeyPatch

    def load(self, source: Path, functions: Sequence[tuple[str, str]]) -> tvm_ffi.Module:
        """Compile `source`, exporting pairs of a name and the function behind it in minisgl::test."""
        wrappers = [(name, f"minisgl::test::{function}") for name, function in functions]
        target = "host" if self.device == "cpu" else "cuda"
        return load_jit(source.stem, cuda_files=[source], cuda_wrappers=wrappers, target=target)  # type: ignore[arg-type]

    def in_every_order(self, launch: Callable[[], object], *outputs: torch.Tensor) -> None:
        """Call `launch` until it has run in every thread order; what it leaves in `outputs` must always be the same."""
        first: list[torch.Tensor] = []
        for order in ORDERS if self.device == "cpu" else ["the GPU's"]:
            self.monkeypatch.setenv("MINISGL_HOST_ORDER", order)
            for output in outputs:
                output.view(torch.uint8).fill_(0x7B)  # so that what an earlier launch left is no result of this one
            launch()
            results = [output.contiguous().view(torch.uint8).clone() for output in outputs]  # bytes: NaN equals NaN
            first = first or results
            assert all(map(torch.equal, results, first)), f"order {order} gives another result than {ORDERS[0]}"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here; the same source is tested on the CPU")
    torch.manual_seed(0)
    return Machine(request.param, monkeypatch)
