# Exported from notebooks/10_cuda_on_a_cpu.md by "minisgl book export"; edit it there. sha256:214509fb0b75

"""Dynamic shared memory for the CPU target: `extern __shared__ T name[];` becomes a pointer to the block's buffer."""

import re
from pathlib import Path

_DECLARATION = re.compile(rb"\bextern\s+__shared__\b")

# C++ has no storage class that suits both `extern __shared__ T name[]` and `__shared__ T name[4]`. We chose `static`,
# so the former arrives from the preprocessor as `extern static`, which is no C++ and therefore easy to find.
_EXTERN_STATIC = re.compile(
    r"\bextern\s+(?:static\b[^;]*?\bminisgl_guard_\d+\[\d+\]\s*;\s*)?"  # the microscope's guard bytes
    r"static\b(?P<local>\s+thread_local\b)?\s*(?:__attribute__\(\(section\([^)]*\)\)\)\s*)?"
    r"(?P<type>[^;=]*?)\s*\b(?P<name>\w+)\s*\[\s*\](?P<rest>(?:\s*\[[^\]]*\])*)\s*;"
)


def uses_dynamic_shared(files: dict[str, Path]) -> bool:
    """Whether any of `files` declares dynamic shared memory."""
    return any(_DECLARATION.search(file.read_bytes()) for file in files.values())


def without_extern_shared(preprocessed: str) -> str:
    """Replace the declarations of dynamic shared memory in preprocessed C++. No line moves."""

    def pointer(match: re.Match[str]) -> str:
        lines = "\n" * match[0].count("\n")
        storage = "thread_local " if match["local"] else ""
        return f"{storage}{match['type']} (*const {match['name']}){match['rest']} = ::dynamic_shared_memory;{lines}"

    return _EXTERN_STATIC.sub(pointer, preprocessed)
