"""Variants of the shipped kernels for the ledger of ideas: the shipped text with a few lines replaced.

A variant is one file with the headers it changes pasted in, so that all of them can be compiled side by side.
"""

from collections.abc import Sequence
from pathlib import Path

from minisgl.compile import sources

MERGED = ["include/minisgl/warp.cuh", "include/minisgl/rows.cuh"]

LOAD = "vectors[round] = static_cast<const Vector*>(row)[i];"
STORE = "static_cast<Vector*>(row)[i] = vectors[round];"
STREAMING_LOADS = [(LOAD, "vectors[round] = __ldcs(static_cast<const Vector*>(row) + i);")]
READ_ONLY_LOADS = [(LOAD, "vectors[round] = __ldg(static_cast<const Vector*>(row) + i);")]
STREAMING_STORES = [(STORE, "__stcs(static_cast<Vector*>(row) + i, vectors[round]);")]

THREADS_PER_ROW = "constexpr int kThreadsPerRow = threads_per_row({}, vector.value, share.value);"


def one_warp_a_row(row_bytes: str) -> list[tuple[str, str]]:
    return [(THREADS_PER_ROW.format(row_bytes), "constexpr int kThreadsPerRow = kWarpSize;")]


INDEX_VARIANTS: dict[str, Sequence[tuple[str, str]]] = {
    "one load at a time": [
        (
            "  __device__ __forceinline__ void load(const void* row, int thread) {",
            "  static __device__ __forceinline__ void copy(void* to, const void* from, int thread) {\n"
            "    for_each_vector(thread, [&](int, int64_t i) {\n"
            "      static_cast<Vector*>(to)[i] = static_cast<const Vector*>(from)[i];\n"
            "    });\n"
            "    for_each_byte(thread, [&](int, int64_t i) {\n"
            "      static_cast<uint8_t*>(to)[i] = static_cast<const uint8_t*>(from)[i];\n"
            "    });\n"
            "  }\n"
            "  __device__ __forceinline__ void load(const void* row, int thread) {",
        ),
        ("  rest.load(from, thread);\n  rest.store(to, thread);", "  rest.copy(to, from, thread);"),
    ],
    "streaming loads": STREAMING_LOADS,
    "read-only loads": READ_ONLY_LOADS,
    "streaming stores": STREAMING_STORES,
    "one warp a row": one_warp_a_row("kRowBytes"),
}

LOAD_V = "  v_row.load(v_address, thread_of_row);\n"
STORE_K = "  Encode::apply(k_row, k_scale).store(k_cache.template row<kPageSize>(slot), thread_of_row);\n"
STORE_VARIANTS: dict[str, Sequence[tuple[str, str]]] = {
    "K then V": [(LOAD_V, ""), (STORE_K, STORE_K + LOAD_V)],
    # V is a row of no bytes; K alone has as many vectors in flight as both together.
    "two launches": [("kVectorsInFlight / 2", "kVectorsInFlight")],
    "streaming loads": STREAMING_LOADS,
    "read-only loads": READ_ONLY_LOADS,
    "streaming stores": STREAMING_STORES,
    "loads behind the check": [("  keep_loads_ahead();  // neither row waits for the slot\n", "")],
}
PLAIN_DIVISION = [("return fabsf(quotient) < 1024.0f ? corrected : quotient;", "return x / scale.value;")]


def add_variant(kernel: str, name: str, replacements: Sequence[tuple[str, str]]) -> str:
    """Make the variant `name` of `csrc/jit/<kernel>.cu` known to the build and return its file name.

    Raises ValueError if a text to replace does not occur exactly once: the shipped source has changed.
    """
    text = "\n".join(sources.find_source(file).read_text() for file in [*MERGED, f"jit/{kernel}.cu"])
    for header in MERGED:
        text = text.replace(f"#include <{header.removeprefix('include/')}>\n", "")
    text = text.replace("#pragma once\n", "")
    for old, new in replacements:
        if text.count(old) != 1:
            raise ValueError(f"{kernel}, {name}: {text.count(old)} times in the source, expected once: {old!r}")
        text = text.replace(old, new)
    file = Path(f"{kernel}_{name.replace(' ', '_').replace('-', '_').lower()}.cu")
    sources.set_overlay(f"csrc/jit/{file}", text)
    return str(file)
