# Exported from notebooks/04_warps_vectors_launches.md by "minisgl book export"; edit it there. sha256:2478c7c83c6d

"""Read what nvcc made of a kernel: its machine instructions, registers and spills. This needs no GPU."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minisgl.compile.build import build
from minisgl.compile.errors import ToolchainError
from minisgl.compile.targets import cuda_target
from minisgl.compile.toolchain import find_cuda_compiler, pypi_toolkit


@dataclass(frozen=True)
class KernelCode:
    """One compiled kernel.

    Attributes:
        name: the mangled C++ name.
        instructions: machine instructions (SASS) in order, predicate and operands included.
        registers: registers per thread.
        stack_bytes: local memory per thread for arrays that could not stay in registers.
        spill_bytes: bytes stored to local memory per thread for want of registers.
    """

    name: str
    instructions: tuple[str, ...]
    registers: int
    stack_bytes: int
    spill_bytes: int

    def positions(self, opcode: str) -> list[int]:
        """Return where an instruction whose opcode starts with `opcode`, such as `"LDG.E.128"`, stands."""
        return [i for i, text in enumerate(self.instructions) if re.match(rf"(@!?U?P\w+ )?{re.escape(opcode)}", text)]


def machine_code(name: str, unit: str, files: Sequence[str | Path], arch: str) -> list[KernelCode]:
    """Compile `unit` as `build` does, for `arch` such as `"sm_90"`, and return its kernels.

    Raises CompileError, or ToolchainError if there is no nvcc or no nvdisasm.
    """
    cubin = build(name, unit, files, cuda_target(arch, machine_code_only=True))
    disassembly = subprocess.run([_find_disassembler(), "-c", cubin], capture_output=True, text=True, check=False)
    if disassembly.returncode != 0:
        raise ToolchainError(f"nvdisasm cannot read nvcc's output for {arch}: {disassembly.stderr.strip()}")
    resources = _resources(cubin.with_suffix(".log").read_text())
    return [KernelCode(kernel, tuple(code), *resources[kernel]) for kernel, code in _functions(disassembly.stdout)]


def _find_disassembler() -> str:
    beside_nvcc = find_cuda_compiler().path.resolve().with_name("nvdisasm")
    if beside_nvcc.is_file():
        return str(beside_nvcc)
    toolkit = pypi_toolkit()
    if toolkit and (toolkit / "bin" / "nvdisasm").is_file():
        return str(toolkit / "bin" / "nvdisasm")
    if found := shutil.which("nvdisasm"):
        return found
    raise ToolchainError('No disassembler found: pip install "minisgl[nvcc]" brings nvdisasm.')


def _functions(listing: str) -> Iterator[tuple[str, list[str]]]:
    """Split nvdisasm's listing at its `.text.NAME:` labels."""
    parts = re.split(r"^\.text\.(\S+):$", listing, flags=re.MULTILINE)
    for kernel, body in zip(parts[1::2], parts[2::2], strict=True):
        yield kernel, re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", body, flags=re.MULTILINE)


def _resources(report: str) -> dict[str, tuple[int, int, int]]:
    """Return registers, stack and spill bytes by kernel from the assembler's report (`ptxas -v`)."""
    found = {}
    for entry in report.split("Compiling entry function '")[1:]:
        registers = re.search(r"Used (\d+) registers", entry)
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", entry)
        if registers and stack:
            found[entry.split("'", 1)[0]] = (int(registers[1]), int(stack[1]), int(stack[2]))
    return found
