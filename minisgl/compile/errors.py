"""What can go wrong between a source file and a loaded kernel."""


class ToolchainError(RuntimeError):
    """No usable compiler was found; the message says what to install."""


class CompileError(RuntimeError):
    """A compiler refused a source file; `str(error)` is the compiler's own output."""
