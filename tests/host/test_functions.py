"""CUDA's intrinsics: bits and integers exactly, arithmetic and conversions in every rounding, functions to the errors
that the CUDA C++ Programming Guide allows ("Mathematical Functions")."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from minisgl.kernel.utils import load_jit

if TYPE_CHECKING:
    from tests.host.conftest import Machine

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy warns of NaNs and infinities
SOURCE = Path(__file__).with_name("functions.cu")
RNG = np.random.default_rng(4)
Array = np.ndarray
MODES = ["Rn", "Rz", "Ru", "Rd"]
M32, M64 = 2**32 - 1, 2**64 - 1

TYPES: dict[str, Any] = {
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "float": np.float32,
    "double": np.float64,
    "float2": np.complex64,
    "uint4": np.complex128,  # any 16 bytes
}


def signed(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (x >> (bits - 1) << bits)


def bytes_of(x: int) -> list[int]:
    return [x >> 8 * i & 0xFF for i in range(4)]


def dot(a: int, b: int, c: int, sign: bool) -> int:
    pairs = zip(bytes_of(a), bytes_of(b), strict=True)
    return c + sum(signed(x, 8) * signed(y, 8) if sign else x * y for x, y in pairs)


# Operation, types of the result and the arguments, and what it must return. Results are taken modulo their size.
INTEGERS: dict[str, tuple[tuple[str, ...], Callable[..., int]]] = {
    "Popc": (("int", "unsigned"), lambda x: x.bit_count()),
    "Popcll": (("int", "unsigned long long"), lambda x: x.bit_count()),
    "Clz": (("int", "int"), lambda x: 32 - (x & M32).bit_length()),
    "Clzll": (("int", "long long"), lambda x: 64 - (x & M64).bit_length()),
    "Ffs": (("int", "int"), lambda x: (x & -x & M32).bit_length()),
    "Ffsll": (("int", "long long"), lambda x: (x & -x & M64).bit_length()),
    "Brev": (("unsigned", "unsigned"), lambda x: int(f"{x:032b}"[::-1], 2)),
    "Brevll": (("unsigned long long", "unsigned long long"), lambda x: int(f"{x:064b}"[::-1], 2)),
    "BytePerm": (
        ("unsigned", "unsigned", "unsigned", "unsigned"),
        lambda x, y, s: sum((bytes_of(x) + bytes_of(y))[s >> 4 * i & 7] << 8 * i for i in range(4)),
    ),
    "FunnelL": (("unsigned",) * 4, lambda low, high, s: (high << 32 | low) << (s & 31) >> 32),
    "FunnelR": (("unsigned",) * 4, lambda low, high, s: (high << 32 | low) >> (s & 31)),
    "FunnelLc": (("unsigned",) * 4, lambda low, high, s: (high << 32 | low) << min(s, 32) >> 32),
    "FunnelRc": (("unsigned",) * 4, lambda low, high, s: (high << 32 | low) >> min(s, 32)),
    "MulHi": (("int",) * 3, lambda a, b: a * b >> 32),
    "UMulHi": (("unsigned",) * 3, lambda a, b: a * b >> 32),
    "Mul64Hi": (("long long",) * 3, lambda a, b: a * b >> 64),
    "UMul64Hi": (("unsigned long long",) * 3, lambda a, b: a * b >> 64),
    "Mul24": (("int",) * 3, lambda a, b: signed(a, 24) * signed(b, 24)),
    "UMul24": (("unsigned",) * 3, lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF)),
    "HAdd": (("int",) * 3, lambda a, b: (a + b) >> 1),
    "RHAdd": (("int",) * 3, lambda a, b: (a + b + 1) >> 1),
    "UHAdd": (("unsigned",) * 3, lambda a, b: (a + b) >> 1),
    "URHAdd": (("unsigned",) * 3, lambda a, b: (a + b + 1) >> 1),
    "Sad": (("unsigned", "int", "int", "unsigned"), lambda a, b, c: abs(a - b) + c),
    "USad": (("unsigned",) * 4, lambda a, b, c: abs(a - b) + c),
    "Bits": (("int", "int"), lambda x: x),
    "Bits64": (("long long", "long long"), lambda x: x),
}
DOT_PRODUCTS = [("int", "int", "int", "int"), ("unsigned",) * 4]
MINIMA = [("int",) * 3, ("unsigned",) * 3, ("unsigned", "int", "unsigned"), ("unsigned", "unsigned", "int")]
MINIMA += [("long long",) * 3, ("unsigned long long", "long long", "unsigned long long")]
MINIMA += [("float",) * 3, ("double",) * 3, ("double", "float", "double")]

FLOAT_ARITHMETIC = {"Add": 2, "Sub": 2, "Mul": 2, "Div": 2, "Fma": 3, "Rcp": 1, "Sqrt": 1}
TO_INTEGER = {
    "ToInt": ("float", "int"),
    "ToUInt": ("float", "unsigned"),
    "ToLong": ("float", "long long"),
    "ToULong": ("float", "unsigned long long"),
    "DoubleToInt": ("double", "int"),
    "DoubleToULong": ("double", "unsigned long long"),
}
FROM_INTEGER = {"FromInt": "int", "FromUInt": "unsigned", "FromLong": "long long", "FromULong": "unsigned long long"}

# Function, oracle in float64, range of the argument, and the largest error allowed: in units in the last place and,
# for the fast functions, as an absolute error where that is more.
MATHEMATICS: dict[str, tuple[Callable[[Array], Array], tuple[float, float], float, float]] = {
    "Rsqrt": (lambda x: 1 / np.sqrt(x), (1e-37, 1e37), 2, 0),
    "RsqrtOverload": (lambda x: 1 / np.sqrt(x), (1e-37, 1e37), 2, 0),
    "FastExp": (np.exp, (-20, 20), 2 + 1.173 * 20, 0),
    "FastExp10": (lambda x: np.power(10.0, x), (-10, 10), 2 + 2.97 * 10, 0),
    "FastLog": (np.log, (1e-30, 1e30), 3, 2**-21.41),
    "FastLog2": (np.log2, (1e-30, 1e30), 2, 2**-22),
    "FastLog10": (np.log10, (1e-30, 1e30), 3, 2**-24),
    "FastSin": (np.sin, (-math.pi, math.pi), 0, 2**-21.41),
    "FastCos": (np.cos, (-math.pi, math.pi), 0, 2**-21.19),
    "FastTan": (np.tan, (-1.2, 1.2), 16, 2**-20),
    "Exp": (np.exp, (-87, 88), 2, 0),
    "Exp2": (np.exp2, (-126, 127), 2, 0),
    "Exp10": (lambda x: np.power(10.0, x), (-37, 38), 2, 0),
    "Log": (np.log, (1e-37, 1e37), 1, 0),
    "Log1p": (np.log1p, (-0.9, 1e6), 1, 0),
    "Tanh": (np.tanh, (-10, 10), 2, 0),
    "Erf": (lambda x: torch.erf(torch.from_numpy(x)).numpy(), (-5, 5), 2, 0),
    "NormCdf": (lambda x: torch.special.ndtr(torch.from_numpy(x)).numpy(), (-5, 5), 5, 0),
    "RCbrt": (lambda x: 1 / np.cbrt(x), (1e-30, 1e30), 1, 0),
    "Saturate": (lambda x: np.clip(x, 0, 1), (-2, 2), 0, 0),
}


def signatures() -> list[tuple[str, ...]]:
    kernels = [(op, *types) for op, (types, _) in INTEGERS.items()]
    kernels += [("Dp4a", *types) for types in DOT_PRODUCTS]
    kernels += [(op, *types) for op in ("Min", "Max") for types in MINIMA]
    for mode in MODES:
        kernels += [(op + mode, *["float"] * (1 + count)) for op, count in FLOAT_ARITHMETIC.items()]
        kernels += [(op + mode, integer, t) for op, (t, integer) in TO_INTEGER.items()]
        kernels += [(op + mode, "float", t) for op, t in FROM_INTEGER.items()]
        kernels += [(f"DoubleToFloat{mode}", "float", "double")]
    kernels += [(op, "float", "float") for op in (*MATHEMATICS, "RsqrtRn")] + [("SinCos", "float2", "float")]
    kernels += [(op, "float", "float", "float") for op in ("FastDivide", "FastPow", "Infinity")]
    kernels += [("HiLo", "double", "double"), ("Clocks", "long long", "int")]
    kernels += [("CacheHints", t, t) for t in ("float", "double", "uint4", "unsigned long long")]
    return kernels


def exports() -> list[tuple[str, str]]:
    return [(export_name(op, types), f"map<minisgl::test::{op}, {', '.join(types)}>") for op, *types in signatures()]


def export_name(op: str, types: Sequence[str]) -> str:
    return "_".join([op, *types]).replace(" ", "_")


class Functions:
    """Calls kernels on NumPy arrays: `f("Add", ["float", "float", "float"], a, b)`; the result's type comes first."""

    def __init__(self, machine: Machine) -> None:
        self.module = machine.load(SOURCE, exports())
        self.device = machine.device

    def __call__(self, op: str, types: Sequence[str], *arrays: Array) -> Array:
        result = np.dtype(TYPES[types[0]])
        inputs = [np.asarray(x).astype(TYPES[t]) for x, t in zip(arrays, types[1:], strict=True)]
        out = torch.full((len(inputs[0]) * result.itemsize,), 0xAA, dtype=torch.uint8, device=self.device)
        tensors = [torch.from_numpy(array.view(np.uint8)).to(self.device) for array in inputs]
        getattr(self.module, export_name(op, types))(len(inputs[0]), out, *tensors)
        return out.cpu().numpy().view(result)


@pytest.fixture
def f(machine: Machine) -> Functions:
    return Functions(machine)


def integers(t: str, count: int = 2000) -> Array:
    limits = np.iinfo(TYPES[t])
    edges = [limits.min, limits.min + 1, limits.max, limits.max - 1, 0, 1, 2, 3, 31, 32, 33, 0x7FFFFFFF, 0x80]
    edges += [-1 % (limits.max + 1) if limits.min == 0 else -1, 1 << 23, 1 << 24]
    random = RNG.integers(limits.min, limits.max, count, dtype=TYPES[t], endpoint=True)
    small = random >> RNG.integers(0, limits.bits, count).astype(TYPES[t])
    return RNG.permutation(np.concatenate([np.array(edges, dtype=TYPES[t]), random, small]))


@pytest.mark.parametrize("op", [*INTEGERS, "Dp4a int", "Dp4a unsigned"])
def test_integers(f: Functions, op: str) -> None:
    name, _, kind = op.partition(" ")
    if kind:
        types: tuple[str, ...] = (kind,) * 4
        expected: Callable[..., int] = lambda a, b, c: dot(a, b, c, kind == "int")  # noqa: E731
    else:
        types, expected = INTEGERS[op]
    arrays = [integers(t) for t in types[1:]]
    if op.startswith("Funnel"):
        arrays[2] = arrays[2] % np.uint32(70)
    limits = np.iinfo(TYPES[types[0]])
    exact = [expected(*row) for row in zip(*(array.tolist() for array in arrays), strict=True)]
    wrapped = [signed(x, limits.bits) if limits.min else x & ((1 << limits.bits) - 1) for x in exact]
    assert f(name, types, *arrays).tolist() == wrapped


@pytest.mark.parametrize("types", MINIMA, ids=" ".join)
def test_min_and_max(f: Functions, types: tuple[str, ...]) -> None:
    if types[0] in ("float", "double"):
        edges = np.array([0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, np.nan, 1e-30])
        a, b = (grid.ravel().astype(TYPES[t]) for t, grid in zip(types[1:], np.meshgrid(edges, edges), strict=True))
        lower = (a < b) | np.isnan(b) | ((a == b) & np.signbit(a))
        higher = (a > b) | np.isnan(b) | ((a == b) & ~np.signbit(a))
        for op, first in (("Min", lower), ("Max", higher)):
            expected, got = np.where(first, a, b).astype(TYPES[types[0]]), f(op, types, a, b)
            assert np.array_equal(got, expected, equal_nan=True)
            assert np.array_equal(np.signbit(got[expected == 0]), np.signbit(expected[expected == 0]))
        return
    a, b = (integers(t) for t in types[1:])
    x, y = a.astype(TYPES[types[0]]), b.astype(TYPES[types[0]])
    assert np.array_equal(f("Min", types, a, b), np.minimum(x, y))
    assert np.array_equal(f("Max", types, a, b), np.maximum(x, y))


# Roundings. ----------------------------------------------------------------------------------------------------------


Comparison = Callable[[Fraction], int]


def floats_around(approximation: float, compare: Comparison) -> tuple[np.float32, np.float32]:
    """Return the floats below and above a real number, the same twice if it is one.

    `compare` tells whether a fraction is smaller (-1) than the number, equal (0) or larger (1).
    """
    low = np.float32(approximation)
    while compare(Fraction(float(low))) > 0:
        low = np.nextafter(low, np.float32(-np.inf))
    while compare(Fraction(float(above := np.nextafter(low, np.float32(np.inf))))) <= 0:
        low = above
    return (low, low) if compare(Fraction(float(low))) == 0 else (low, above)


def choose(low: np.float32, high: np.float32, mode: str, compare: Comparison) -> np.float32:
    """Return the neighbour of a real number that a rounding takes."""
    if mode == "Rz":
        mode = "Rd" if low >= 0 else "Ru"
    if mode != "Rn" or low == high:
        return high if mode == "Ru" else low
    side = compare((Fraction(float(low)) + Fraction(float(high))) / 2)
    even = low if low.view(np.uint32) % 2 == 0 else high
    return high if side < 0 else low if side > 0 else even


EXACT: dict[str, Callable[..., Fraction]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b,
    "Fma": lambda a, b, c: a * b + c,
    "Rcp": lambda a: 1 / a,
}


def rational(x: Fraction) -> Comparison:
    return lambda c: (c > x) - (c < x)


def root(x: Fraction) -> Comparison:
    return lambda c: -1 if c < 0 else (c * c > x) - (c * c < x)


@pytest.mark.parametrize("op", FLOAT_ARITHMETIC)
def test_arithmetic_in_every_rounding(f: Functions, op: str) -> None:
    count = 700
    mantissas = RNG.integers(0, 1 << 23, (3, count)) | RNG.integers(117, 137, (3, count)) << 23
    short = mantissas & ~0x7FFFF  # few bits: exact results, and ties
    bits = np.where(RNG.random((3, count)) < 0.4, short, mantissas)
    bits[2] = np.where(RNG.random(count) < 0.3, RNG.integers(1, 1 << 23, count), bits[2])  # a tiny addend
    small = RNG.random(count) < 0.2  # results below the normal floats
    bits[0] = np.where(small & (op not in ("Rcp", "Sqrt")), bits[0] - (115 << 23), bits[0])
    bits[1] = np.where(small & (op == "Mul"), bits[1] - (12 << 23), bits[1])
    x = bits.astype(np.uint32).view(np.float32)
    x = x if op == "Sqrt" else x * RNG.choice([-1, 1], (3, count)).astype(np.float32)
    rows = x[: FLOAT_ARITHMETIC[op]]

    expected: dict[str, list[np.float32]] = {mode: [] for mode in MODES}
    for row in rows.T.tolist():
        exact = EXACT[op](*map(Fraction, row)) if op in EXACT else Fraction(math.sqrt(row[0]))
        compare = rational(exact) if op in EXACT else root(Fraction(row[0]))
        low, high = floats_around(float(exact), compare)
        for mode in MODES:
            expected[mode].append(choose(low, high, mode, compare))
    for mode in MODES:
        got = f(op + mode, ["float"] * (1 + len(rows)), *rows)
        wrong = np.flatnonzero(got != np.array(expected[mode]))
        assert not len(wrong), (mode, len(wrong), rows[:, wrong[0]], got[wrong[0]], expected[mode][wrong[0]])


def test_arithmetic_of_infinities_and_nan(f: Functions) -> None:
    edges = np.array([0, -0.0, 1, -2, np.inf, -np.inf, np.nan, 3e38], dtype=np.float32)
    a, b = (grid.ravel() for grid in np.meshgrid(edges, edges))
    for op, exact in (
        ("Add", a + b),
        ("Sub", a - b),
        ("Mul", a * b),
        ("Div", a / b),
        ("Fma", (a.astype(float) * b + a).astype(np.float32)),
    ):
        arguments = (a, b, a) if op == "Fma" else (a, b)
        got = f(f"{op}Rn", ["float"] * (1 + len(arguments)), *arguments)
        assert np.array_equal(got, exact, equal_nan=True), op
    huge = np.array([3e38, -3e38], dtype=np.float32)
    largest = np.finfo(np.float32).max
    for mode, expected in (("Rz", [largest, -largest]), ("Ru", [np.inf, -largest]), ("Rd", [largest, -np.inf])):
        assert f(f"Add{mode}", ["float"] * 3, huge, huge).tolist() == expected
        assert f(f"Mul{mode}", ["float"] * 3, huge, np.abs(huge)).tolist() == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("op", TO_INTEGER)
def test_floats_to_integers(f: Functions, op: str, mode: str) -> None:
    t, integer = TO_INTEGER[op]
    limits = np.iinfo(TYPES[integer])
    edges = [sign * 2.0**k + d for k in (0, 1, 22, 31, 32, 63, 64) for d in (-1, -0.5, 0, 0.5, 1) for sign in (1, -1)]
    edges += [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-40, -1e-40]
    x = np.concatenate([edges, RNG.standard_normal(3000) * 2.0 ** RNG.integers(-3, 66, 3000)]).astype(TYPES[t])
    whole = {"Rn": np.rint, "Rz": np.trunc, "Ru": np.ceil, "Rd": np.floor}[mode](x.astype(np.float64)).tolist()
    wide = limits.bits == 64 or t == "double"  # PTX, cvt: NaN becomes the top bit alone
    nan = 0 if not wide else limits.min if limits.min else 1 << (limits.bits - 1)
    expected = [nan if w != w else limits.max if w > limits.max else limits.min if w < limits.min else int(w)
                for w in whole]  # fmt: skip
    assert f(op + mode, [integer, t], x).tolist() == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("op", [*FROM_INTEGER, "DoubleToFloat"])
def test_to_floats(f: Functions, op: str, mode: str) -> None:
    if op == "DoubleToFloat":
        t = "double"
        x = RNG.standard_normal(1500) * 10.0 ** RNG.integers(-50, 38, 1500)
        middles = (np.arange(200) + 0.5) * 2.0**-149
        x = np.concatenate([x, middles, -middles, x.astype(np.float32), [0.0]])
    else:
        t = FROM_INTEGER[op]
        x = integers(t, 800)
    expected = []
    for value in x.tolist():
        compare = rational(Fraction(value))
        low, high = floats_around(float(value), compare)
        expected.append(choose(low, high, mode, compare))
    assert np.array_equal(f(op + mode, ["float", t], x), np.array(expected))


def test_reciprocal_root_is_rounded_correctly(f: Functions) -> None:
    x = (RNG.integers(0, 1 << 23, 2000) | RNG.integers(1, 255, 2000) << 23).astype(np.uint32).view(np.float32)
    expected = []
    for value in x.tolist():
        compare = root(1 / Fraction(value))
        expected.append(choose(*floats_around(1 / math.sqrt(value), compare), "Rn", compare))
    assert np.array_equal(f("RsqrtRn", ["float", "float"], x), np.array(expected))


# Functions. ----------------------------------------------------------------------------------------------------------


def assert_close(got: Array, expected: Array, ulps: float, absolute: float, x: Array) -> None:
    unit = np.spacing(np.maximum(np.abs(expected), np.finfo(np.float32).tiny).astype(np.float32)).astype(np.float64)
    excess = np.abs(got.astype(np.float64) - expected) - np.maximum((ulps + 0.5) * unit, absolute)
    worst = excess.argmax()
    assert excess[worst] <= 0, (x[worst], got[worst], expected[worst])


@pytest.mark.parametrize("op", MATHEMATICS)
def test_functions(f: Functions, op: str) -> None:
    oracle, (low, high), ulps, absolute = MATHEMATICS[op]
    x = RNG.uniform(low, high, 100_000)
    if low > 0:
        x = np.exp(RNG.uniform(math.log(low), math.log(high), 100_000))
    x = x.astype(np.float32)
    assert_close(f(op, ["float", "float"], x), oracle(x.astype(np.float64)), ulps, absolute, x)


def test_functions_of_two_numbers(f: Functions) -> None:
    a, b = np.exp(RNG.uniform(-10, 10, (2, 100_000))).astype(np.float32)
    wide = a.astype(np.float64), b.astype(np.float64)
    assert_close(f("FastDivide", ["float"] * 3, a, b), wide[0] / wide[1], 2, 0, a)
    exponent = RNG.uniform(-2, 2, 100_000).astype(np.float32)
    power = wide[0] ** exponent.astype(np.float64)
    error = np.abs(f("FastPow", ["float"] * 3, a, exponent) / power - 1)  # exp2f(y * __log2f(x)): 30 bits of exponent
    assert error.max() < 2**-18
    both = f("SinCos", ["float2", "float"], exponent)
    assert_close(both.real, np.sin(exponent.astype(np.float64)), 2, 0, exponent)
    assert_close(both.imag, np.cos(exponent.astype(np.float64)), 2, 0, exponent)


def test_edges_of_functions(f: Functions) -> None:
    x = np.array([0.0, np.inf, -np.inf, np.nan, -1.0, 2.0], dtype=np.float32)
    cases: dict[str, list[float | None]] = {
        "Rsqrt": [np.inf, 0, np.nan, np.nan, np.nan, None],
        "FastExp": [1, np.inf, 0, np.nan, None, None],
        "Exp": [1, np.inf, 0, np.nan, None, None],
        "FastLog": [-np.inf, np.inf, np.nan, np.nan, np.nan, None],
        "Tanh": [0, 1, -1, np.nan, None, None],
        "Saturate": [0, 1, 0, 0, 0, 1],
    }
    for op, expected in cases.items():
        got = f(op, ["float", "float"], x)
        for value, want in zip(got.tolist(), expected, strict=True):
            assert want is None or value == want or (value != value and want != want), (op, got)
    infinities = f("Infinity", ["float"] * 3, np.zeros(2), np.array([0, 1]))
    assert infinities.tolist() == [np.inf, -np.inf]


# Memory and time. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", ["float", "double", "uint4", "unsigned long long"])
def test_cache_hints(f: Functions, t: str) -> None:
    x = RNG.integers(0, 100, 500).astype(TYPES[t])
    assert np.array_equal(f("CacheHints", [t, t], x), x)


def test_halves_of_a_double(f: Functions) -> None:
    x = np.array([1.5, -math.pi, 1e-310, -0.0, 1e300])
    got = f("HiLo", ["double", "double"], x)
    assert np.array_equal(got.view(np.uint64), x.view(np.uint64))


def test_clocks_run_forward(f: Functions) -> None:
    assert (f("Clocks", ["long long", "int"], np.zeros(100)) >= 0).all()


def test_the_source_compiles_for_a_gpu() -> None:
    wrappers = [(name, f"minisgl::test::{function}") for name, function in exports()]
    load_jit("functions", cuda_files=[SOURCE], cuda_wrappers=wrappers, target="cuda", arch="sm_90")
