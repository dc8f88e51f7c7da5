# Exported from notebooks/10_cuda_on_a_cpu.md by "minisgl book export"; edit it there. sha256:e39be18e2a57

"""The limit on static shared memory, which nvcc's assembler enforces for a GPU and nobody for the CPU."""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

from minisgl.compile.errors import CompileError

_MAX_BYTES = 48 * 1024

# g++ puts the variables of templates into .bss, whatever section it is told. A template function's variable that
# outlives a call is hardly anything but shared memory.
_SYMBOL = re.compile(
    r"^[0-9a-f]+ .{7} (?:minisgl_shared_\d+|\.t?bss(?=.*>\(.*\)::\w+$))"  # address, flags, section
    r"\t([0-9a-f]+)\s+(?:\.hidden )?(?:(.+\))::)?([\w:.]+)$",  # size, function, name
    re.MULTILINE,
)


def require_static_shared_fits(library: Path) -> None:
    """Raise CompileError if a kernel of `library` has more than 48 KiB of `__shared__` variables."""
    result = subprocess.run(["objdump", "-C", "-t", str(library)], capture_output=True, text=True, check=False)
    variables: dict[str, dict[str, int]] = defaultdict(dict)
    for size, kernel, name in _SYMBOL.findall(result.stdout):
        variables[kernel or name][name] = int(size, 16)
    for kernel, sizes in variables.items():
        if sum(sizes.values()) > _MAX_BYTES:
            parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise CompileError(
                f"{kernel}: expected at most {_MAX_BYTES} bytes of static __shared__ memory, "
                f"got {sum(sizes.values())} ({parts})"
            )
