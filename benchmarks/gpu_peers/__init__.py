"""Other projects' kernels for the same work. One that is not installed is left out, with the reason printed.

A peer is found as an importable package, without being imported: its kernel's sources are enough. None is copied here.
"""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

PEERS = {
    "Triton": "gpu_peers.triton_rows",
    "SGLang": "gpu_peers.sglang_store",
    "FlashInfer": "gpu_peers.flashinfer_append",
}


def installed(*names: str) -> dict[str, ModuleType]:
    """Return the modules of the peers in `names` that are installed here."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.import_module(PEERS[name])
        except ImportError as error:
            print(f"{name}: left out: {error}")
    return found


def package_folder(package: str, needed: str) -> Path:
    """Return the folder of an installed package that holds the file `needed`. Raises ImportError."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if Path(folder, needed).is_file():
            return Path(folder)
    raise ImportError(f"no package {package!r} with {needed} on the import path")
