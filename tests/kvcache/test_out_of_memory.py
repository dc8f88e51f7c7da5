"""A call that runs out of memory leaves the tree as it was, or with a node split in two."""

import re
from pathlib import Path

import pytest
from programs import build_program, run_program  # type: ignore[import-not-found]  # tests/ is on the path


@pytest.mark.parametrize(
    "checks", [[], ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]], ids=["", "asan"]
)
def test_calls_that_run_out_of_memory(tmp_path: Path, checks: list[str]) -> None:
    flags = ["-O1", "-g", *checks, *(f"-Wl,--wrap={name}" for name in ("malloc", "realloc", "_Znwm", "_Znam"))]
    result = run_program(build_program(tmp_path, "g++", Path(__file__).with_name("out_of_memory.cpp"), flags))
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.fullmatch(r"(\d+) calls ran out of memory\n", result.stdout)
    assert found
    assert int(found[1]) > 1000
