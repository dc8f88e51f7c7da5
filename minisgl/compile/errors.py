# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:6626717150ae

"""What can go wrong between a source file and a loaded kernel."""


class ToolchainError(RuntimeError):
    """No usable compiler was found; the message says what to install."""


class CompileError(RuntimeError):
    """A compiler refused a source file; `str(error)` is the compiler's own output."""
