"""Where a record comes from: written into every record beside its samples."""

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime

import torch
import tvm_ffi

from minisgl import __version__
from minisgl.compile.toolchain import find_cuda_compiler


def provenance(commit: str, peers: Mapping[str, str] | None = None) -> dict[str, object]:
    """Describe this machine's GPU and software; `peers` are versions of what was measured beside it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    nvcc = subprocess.run([find_cuda_compiler().path, "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "device": torch.cuda.get_device_name(),
        "driver": subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0],
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "versions": {
            "minisgl": __version__,
            "torch": torch.__version__,
            "tvm_ffi": tvm_ffi.__version__,
            "nvcc": nvcc.split("release ")[1].split(",")[0],
            "python": platform.python_version(),
            **(peers or {}),
        },
    }


def file_name(kernel: str) -> str:
    """Return the name of the record of `kernel` on this GPU, such as `nvidia-h200-index.json`."""
    return f"{torch.cuda.get_device_name().lower().replace(' ', '-')}-{kernel}.json"
