# Exported from notebooks/10_cuda_on_a_cpu.md by "minisgl book export"; edit it there. sha256:b90ef00837d8

"""Shared memory in C++: declarations with `__shared__` that no macro can make right are rewritten.

The macro `__shared__` stands for `static`, which suits `__shared__ float tile[32];`. Other declarations come out of the
preprocessor as something that is no C++, such as `extern static float tile[];`.
"""

import re
from pathlib import Path

# What a macro alone cannot do: dynamic shared memory, and other specifiers in front of or behind the word.
_UNUSUAL = re.compile(
    rb"\b(?:extern|static|alignas|__align__)\b[^;{}]*__shared__|__shared__\s+(?:extern|static|alignas)\b"
)
_SECTION = re.compile(r'__attribute__\(\(section\("minisgl_shared_" "(\d+)"\)\)\)')
_STATIC = rf"\bstatic\b(?:\s+thread_local\b)?(?:\s+{_SECTION.pattern})?"
_NO_CPP = re.compile(rf"\bextern\b.*\bstatic\b|{_STATIC}\s+(?:extern|static|alignas)\b", re.DOTALL)
_STORAGE = re.compile(rf"\b(?:extern|static|thread_local)\b\s*|{_SECTION.pattern}\s*")
_ARRAY = re.compile(r"\b(\w+)\s*\[\s*\]((?:\s*\[[^\]]*\])*)")  # name[], or name[][32]


def is_unusual(files: dict[str, Path]) -> bool:
    """Whether any of `files` declares shared memory in a way that needs `rewritten`; `host/` defines the word."""
    return any(_UNUSUAL.search(file.read_bytes()) for name, file in files.items() if not name.startswith("host/"))


def may_be_hidden(message: str) -> bool:
    """Whether a compiler's message may be about such a declaration, in a macro or in a header that we don't know."""
    return re.search("conflicting specifiers|cannot combine with previous", message) is not None


def rewritten(preprocessed: str, *, guarded: bool) -> str:
    """Make C++ of the declarations of shared memory in a preprocessed source. No line moves.

    Dynamic shared memory becomes a reference to the block's buffer. With `guarded`, bytes that belong to nobody lie
    beside every static variable: the microscope sees an overflow that hits them.
    """
    parts, done = [], 0
    for match in re.finditer(r"\bstatic\b", preprocessed):
        if match.start() < done:
            continue
        begin = max(preprocessed.rfind(mark, done, match.start()) for mark in ";{}") + 1
        begin = max(begin, done)
        while (line := preprocessed.rfind("\n#", begin, match.start())) >= 0:  # where the next lines come from
            begin = preprocessed.index("\n", line + 1)
        end = preprocessed.find(";", match.end())
        declaration = preprocessed[begin:end]
        if "{" in declaration or not (_NO_CPP.search(declaration) or (guarded and _SECTION.search(declaration))):
            continue
        new = _rewritten_declaration(declaration, guarded)
        parts += [preprocessed[done:begin], new, "\n" * (declaration.count("\n") - new.count("\n"))]
        done = end
    return "".join([*parts, preprocessed[done:]])


def _rewritten_declaration(declaration: str, guarded: bool) -> str:
    text = declaration.lstrip()
    indent = declaration[: len(declaration) - len(text)]
    section = _SECTION.search(text)
    storage = "thread_local " if re.search(r"\bthread_local\b", text) else ""
    rest = re.sub(r"\balignas\s*(\((?:[^()]|\([^()]*\))*\))", r"__attribute__((aligned\1))", text)
    rest = _STORAGE.sub("", rest)
    if re.search(r"\bextern\b", text):
        rest = re.sub(r"\]\s*__attribute__\s*\(\(.*\)\)\s*$", "]", rest)
        return indent + storage + _ARRAY.sub(r"(&\1)[]\2 = ::minisgl::host::dynamic_shared_memory", rest)
    guard = ""
    if section:
        storage += f'__attribute__((section("minisgl_shared_{section[1]}"))) '
        name = f"minisgl_guard_{section[1]}"
        guard = f'static __attribute__((section("{name}"), used)) char {name}[256]; ' if guarded else ""
    return f"{indent}{guard}static {storage}{rest}"
