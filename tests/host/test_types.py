"""CUDA's vector and small floating-point types: every conversion and operation against exact arithmetic in NumPy."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from minisgl.kernel.utils import load_jit

if TYPE_CHECKING:
    from tests.host.conftest import Machine

SOURCE = Path(__file__).with_name("types.cu")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy warns of NaNs and infinities
RNG = np.random.default_rng(3)
Array = np.ndarray


@dataclass(frozen=True)
class Format:
    """A floating-point format: C++ type, bits of exponent and mantissa, and the code after the largest finite one."""

    cpp: str
    exponent: int
    mantissa: int
    overflow: int

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        return np.uint8 if self.bits == 8 else np.uint16

    def positive(self) -> Array:
        """Return the values of codes 0, 1, ... up to infinity (or what would come next), from their definition."""
        codes = np.arange(self.overflow + 1)
        field, fraction = codes >> self.mantissa, codes % (1 << self.mantissa)
        significand = np.where(field == 0, fraction, fraction + (1 << self.mantissa)).astype(np.float64)
        bias = 2 ** (self.exponent - 1) - 1
        return np.ldexp(significand, np.maximum(field, 1) - bias - self.mantissa)

    def values(self, codes: Array) -> Array:
        """Return what `codes` stand for, as float64."""
        codes = codes.astype(np.int64)
        sign, magnitude = codes >> (self.bits - 1), codes & (2 ** (self.bits - 1) - 1)
        last_is_nan = self.cpp == "e4m3"
        value = self.positive()[np.minimum(magnitude, self.overflow)]
        value = np.where(magnitude >= self.overflow, np.nan if last_is_nan else np.inf, value)
        value = np.where(magnitude > self.overflow, np.nan, value)
        return np.where(sign == 1, -value, value)

    def rounded(self, x: Array, mode: str = "rn") -> Array:
        """Return the codes of float64 `x`, found by binary search among all values; NaN becomes -1."""
        magnitude, negative = np.abs(x), np.signbit(x)
        table = self.positive()
        below = np.searchsorted(table, magnitude, side="right") - 1
        exact = table[below] == magnitude
        above = np.minimum(below + 1, self.overflow)
        middle = (table[below] + table[above]) / 2
        nearest = np.where((magnitude > middle) | ((magnitude == middle) & (below % 2 == 1)), above, below)
        up, down = np.where(negative, below, above), np.where(negative, above, below)
        code = np.where(exact, below, {"rn": nearest, "rz": below, "ru": up, "rd": down}[mode])
        finite = np.isfinite(x)
        code = np.where(finite & (below == self.overflow), self.round_large(negative, mode), code)
        code = np.where(np.isinf(x), self.overflow, code)
        return np.where(np.isnan(x), -1, code + (negative.astype(np.int64) << (self.bits - 1)))

    def round_large(self, negative: Any, mode: str) -> Array:
        away: Any = {"rn": np.True_, "rz": np.False_, "ru": ~negative, "rd": negative}[mode]
        return np.where(away, self.overflow, self.overflow - 1)

    def codes(self) -> Array:
        return np.arange(1 << self.bits).astype(self.dtype)


HALF = Format("__half", 5, 10, 0x7C00)
BFLOAT16 = Format("__nv_bfloat16", 8, 7, 0x7F80)
E4M3 = Format("e4m3", 4, 3, 0x7F)
E5M2 = Format("e5m2", 5, 2, 0x7C)
SIXTEEN = [HALF, BFLOAT16]

ARITHMETIC = ["Add", "Subtract", "Multiply", "Divide", "HAdd", "HMul", "HAddSat", "HMax", "HMin", "HMaxNan", "HMinNan"]
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "HExp": np.exp,
    "HExp2": np.exp2,
    "HExp10": lambda x: np.power(10.0, x),
    "HLog": np.log,
    "HLog2": np.log2,
    "HLog10": np.log10,
    "HSin": np.sin,
    "HCos": np.cos,
    "HTanh": np.tanh,
    "HSqrt": np.sqrt,
    "HRsqrt": lambda x: 1 / np.sqrt(x),
    "HRcp": lambda x: 1 / x,
    "HCeil": np.ceil,
    "HFloor": np.floor,
    "HTrunc": np.trunc,
    "HRint": np.rint,
}
TO_INTEGER = {
    "IntRn": ("__half", "int"),
    "IntRz": ("__half", "int"),
    "IntRu": ("__half", "int"),
    "IntRd": ("__half", "int"),
    "ShortRn": ("__half", "short"),
    "UShortRz": ("__half", "unsigned short"),
    "UIntRd": ("__half", "unsigned"),
    "UCharRz": ("__half", "unsigned char"),
    "LongRn": ("__nv_bfloat16", "long long"),
    "LongRd": ("__nv_bfloat16", "long long"),
    "ULongRz": ("__nv_bfloat16", "unsigned long long"),
}
PAIRS = {"__half": "__half2", "__nv_bfloat16": "__nv_bfloat162"}
PAIR_OPERATIONS = {"HAdd2": "Add", "HSub2": "Subtract", "HMul2": "Multiply", "HDiv2": "Divide"}
PAIR_OPERATIONS |= {"HMax2": "HMax", "HMin2": "HMin"}


def signatures() -> dict[str, tuple[str, ...]]:
    """Return the kernels: an exported name, and the operation, the type of its result and of its arguments."""
    kernels: list[tuple[str, ...]] = []
    for t in ("__half", "__nv_bfloat16"):
        kernels += [("Convert", "float", t), ("Convert", t, "float"), ("Convert", t, "double"), ("Convert", "bool", t)]
        kernels += [("Convert", t, "long long"), ("Convert", "int", t), ("Negate", t, t), ("HAbs", t, t)]
        kernels += [(op, t, t, t) for op in ARITHMETIC] + [(op, t, t) for op in FUNCTIONS]
        kernels += [(op, t, t, t, t) for op in ("HFma", "HFmaSat", "HFmaRelu")]
        kernels += [("Compare", "int", t, t), ("HIsInf", "int", t)]
        pair = PAIRS[t]
        kernels += [(op, pair, pair, pair) for op in (*PAIR_OPERATIONS, "HGt2")] + [("HFma2", pair, pair, pair, pair)]
        kernels += [("HNeg2", pair, pair), ("HSwap2", pair, pair), ("SumHalves", "float", pair)]
        kernels += [("HLeuMask", "unsigned", pair, pair), ("HAllLess", "int", pair, pair)]
    kernels += [("Convert", "__half", "__nv_bfloat16"), ("Convert", "__nv_bfloat16", "__half")]
    for mode in ("Rz", "Ru", "Rd"):
        kernels += [(f"Half{mode}", "__half", "float"), (f"BFloat16{mode}", "__nv_bfloat16", "float")]
    kernels += [("HalfFromDouble", "__half", "double"), ("BFloat16FromDouble", "__nv_bfloat16", "double")]
    for mode in ("Rn", "Rz", "Ru", "Rd"):
        kernels += [(f"HalfFromInt{mode}", "__half", "int"), (f"BFloat16FromLong{mode}", "__nv_bfloat16", "long long")]
    kernels += [(op, integer, t) for op, (t, integer) in TO_INTEGER.items()]
    kernels += [("PackHalf", "__half2", "float", "float"), ("PackHalf2", "__half2", "float", "float")]
    kernels += [("PackBFloat16", "__nv_bfloat162", "float", "float"), ("UnpackHalf", "float2", "__half2")]
    kernels += [("UnpackBFloat16", "float2", "__nv_bfloat162"), ("ShuffleHalf", "__half2", "__half2", "__half2")]
    kernels += [("ShuffleBFloat16", "__nv_bfloat162", "__nv_bfloat162", "__nv_bfloat162")]
    kernels += [("LowHigh", "__half2", "__half2", "__half2")]
    byte = "unsigned char"
    for name in ("E4M3", "E5M2"):
        t = f"__nv_fp8_{name.lower()}"
        kernels += [(f"To{name}", byte, "float"), (f"To{name}NoSat", byte, "float"), (f"{name}ToHalf", "__half", byte)]
        kernels += [("Convert", t, "float"), ("Convert", "float", t), ("Convert", t, "__half"), ("Convert", "int", t)]
        kernels += [("Convert", t, "__nv_bfloat16"), ("Convert", "bool", t), ("Convert", t, "int")]
        four, two = t.replace("fp8", "fp8x4"), t.replace("fp8", "fp8x2")
        kernels += [("Convert", four, "float4"), ("Convert", "float4", four), ("Convert", two, "__half2")]
        kernels += [("Convert", two, "__nv_bfloat162"), ("Convert", "float2", two)]
    kernels += [("DoubleToE4M3", byte, "double"), ("HalfToE5M2", byte, "__half_raw")]
    kernels += [("BFloat16ToE4M3", byte, "__nv_bfloat16_raw"), ("PackE4M3", "unsigned short", "float", "float")]
    kernels += [("OwnNames", "unsigned short", "__half")]
    kernels += [("UnpackE5M2", "__half2", "unsigned short"), ("MakeFloat4", "float4", "float", "float", "float")]
    kernels += [("MakeShort2", "short2", "short", "short"), ("MakeUChar4", "uchar4", byte, byte, byte)]
    kernels += [("MakeLongLong2", "longlong2", "long long", "long long")]
    return {"_".join(kernel).replace(" ", "_"): kernel for kernel in kernels}


def exports() -> list[tuple[str, str]]:
    return [(name, f"map<minisgl::test::{op}, {', '.join(types)}>") for name, (op, *types) in signatures().items()]


class Functions:
    """Calls kernels on NumPy arrays of raw bits or numbers: `f("Add", "__half", "__half", "__half")(a, b)`."""

    def __init__(self, machine: Machine) -> None:
        self.module = machine.load(SOURCE, exports())
        self.device = machine.device

    def __call__(self, *signature: str, result: type = np.uint16, per_item: int = 1) -> Callable[..., Array]:
        function = getattr(self.module, "_".join(signature).replace(" ", "_"))

        def call(*arrays: Array) -> Array:
            size = len(arrays[0])
            bytes_out = size * per_item * np.dtype(result).itemsize
            out = torch.full((bytes_out,), 0xAA, dtype=torch.uint8, device=self.device)
            inputs = [torch.from_numpy(np.ascontiguousarray(array).view(np.uint8)).to(self.device) for array in arrays]
            function(size, out, *inputs)
            return out.cpu().numpy().view(result).reshape((size, per_item) if per_item > 1 else size)

        return call


@pytest.fixture
def f(machine: Machine) -> Functions:
    return Functions(machine)


def assert_codes(format: Format, got: Array, expected: Array, *inputs: Array) -> None:
    """Compare codes bit by bit; all NaNs are the same."""
    got_nan, expected_nan = np.isnan(format.values(got)), expected < 0
    wrong = np.where(got_nan | expected_nan, got_nan != expected_nan, got != expected)
    first = np.flatnonzero(wrong)[:1]
    assert not len(first), [(wrong.sum(), [i[first] for i in inputs], hex(got[first[0]]), hex(expected[first[0]]))]


def hard_floats(format: Format) -> Array:
    """Return float32 values at, between and beside the values of a format, beyond its range, and random bits."""
    table = format.positive()
    middles = (table[1:] + table[:-1]) / 2
    largest = np.array([table[-1] * 1.5, table[-1] * 4, 3e38, np.inf, np.nan])
    with np.errstate(over="ignore"):
        edges = np.concatenate([table, middles, largest]).astype(np.float32)
    beside = [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(np.inf))]
    tiny = np.arange(64, dtype=np.uint32).view(np.float32)
    positive = np.concatenate([*beside, tiny])
    random = RNG.integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    return np.concatenate([positive, -positive, random])


def pairs_of_codes(format: Format) -> tuple[Array, Array]:
    """Return all pairs of awkward codes, and random ones."""
    edges = [0, 1, 2, 3, (1 << format.mantissa) - 1, 1 << format.mantissa, (1 << format.mantissa) + 1]
    edges += [format.overflow + i for i in (-2, -1, 0, 1)]
    edges += [int(format.rounded(np.array([x]))[0]) for x in (0.5, 1.0, 1.0 + 2**-format.mantissa, 2.0, 3.0, 1 / 3)]
    edges += list(RNG.integers(0, format.overflow, 200))
    both = np.array(edges + [edge + (1 << format.bits - 1) for edge in edges]).astype(format.dtype)
    a, b = (grid.ravel() for grid in np.meshgrid(both, both))
    random = RNG.integers(0, 1 << 16, (2, 1 << 19)).astype(format.dtype)
    return np.concatenate([a, random[0]]), np.concatenate([b, random[1]])


# Conversions. --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", SIXTEEN)
def test_every_code_as_float(f: Functions, format: Format) -> None:
    codes = format.codes()
    got = f("Convert", "float", format.cpp, result=np.float32)(codes)
    expected = torch.from_numpy(codes).view(torch.float16 if format is HALF else torch.bfloat16).float().numpy()
    assert np.array_equal(got, expected, equal_nan=True)
    assert np.array_equal(np.signbit(got[expected == 0]), np.signbit(expected[expected == 0]))
    assert np.array_equal(got, format.values(codes).astype(np.float32), equal_nan=True)
    assert np.array_equal(f("Convert", "bool", format.cpp, result=np.bool_)(codes), expected != 0)


@pytest.mark.parametrize("format", SIXTEEN)
def test_float_to_nearest(f: Functions, format: Format) -> None:
    x = hard_floats(format)
    got = f("Convert", format.cpp, "float")(x)
    assert_codes(format, got, format.rounded(x.astype(np.float64)), x)
    expected = torch.from_numpy(x).to(torch.float16 if format is HALF else torch.bfloat16)
    numbers = ~np.isnan(x)
    assert np.array_equal(got[numbers], expected.view(torch.uint16).numpy()[numbers])
    assert (got[~numbers] == 0x7FFF).all()


@pytest.mark.parametrize(("format", "name"), [(HALF, "Half"), (BFLOAT16, "BFloat16")])
@pytest.mark.parametrize("mode", ["Rz", "Ru", "Rd"])
def test_float_in_a_direction(f: Functions, format: Format, name: str, mode: str) -> None:
    x = hard_floats(format)
    got = f(f"{name}{mode}", format.cpp, "float")(x)
    assert_codes(format, got, format.rounded(x.astype(np.float64), mode.lower()), x)


@pytest.mark.parametrize(("format", "name"), [(HALF, "Half"), (BFLOAT16, "BFloat16")])
def test_double_is_rounded_once(f: Functions, format: Format, name: str) -> None:
    x = hard_floats(format)[: 1 << 17].astype(np.float64)
    x = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf), x * 1e30, x * 1e-30, x * 1e200, -x])
    for signature in ((f"{name}FromDouble", format.cpp, "double"), ("Convert", format.cpp, "double")):
        assert_codes(format, f(*signature)(x), format.rounded(x), x)


def test_between_half_and_bfloat16(f: Functions) -> None:
    codes = HALF.codes()
    for source, to in ((HALF, BFLOAT16), (BFLOAT16, HALF)):
        got = f("Convert", to.cpp, source.cpp)(codes)
        assert_codes(to, got, to.rounded(source.values(codes)), codes)


@pytest.mark.parametrize("mode", ["Rn", "Rz", "Ru", "Rd"])
def test_integers_to_16_bits(f: Functions, mode: str) -> None:
    small = np.arange(-70_000, 70_000)
    large = RNG.integers(-(2**31), 2**31, 10_000)
    integers = np.concatenate([small, large, [2**31 - 1, -(2**31)]]).astype(np.int32)
    got = f(f"HalfFromInt{mode}", "__half", "int")(integers)
    assert_codes(HALF, got, HALF.rounded(integers.astype(np.float64), mode.lower()), integers)

    middles = [sign * ((129 + 2 * i) << 55) + d for i in range(64) for d in (-1, 0, 1) for sign in (1, -1)]
    longs = [*middles, *(int(i) for i in RNG.integers(-(2**62), 2**62, 300)), 2**63 - 1, -(2**63), 0, 1, -1]
    expected = np.array([exactly_rounded(BFLOAT16, Fraction(i), mode.lower()) for i in longs])
    array = np.array(longs, dtype=np.int64)
    assert_codes(BFLOAT16, f(f"BFloat16FromLong{mode}", "__nv_bfloat16", "long long")(array), expected, array)
    if mode == "Rn":
        assert_codes(BFLOAT16, f("Convert", "__nv_bfloat16", "long long")(array), expected, array)


@pytest.mark.parametrize("op", TO_INTEGER)
def test_16_bits_to_integers(f: Functions, op: str) -> None:
    cpp, integer = TO_INTEGER[op]
    format = HALF if cpp == HALF.cpp else BFLOAT16
    dtype: dict[str, Any] = {"int": np.int32, "short": np.int16, "unsigned short": np.uint16, "unsigned": np.uint32}
    dtype |= {"unsigned char": np.uint8, "long long": np.int64, "unsigned long long": np.uint64}
    limits = np.iinfo(dtype[integer])
    codes = format.codes()
    to_whole = {"Rn": np.rint, "Rz": np.trunc, "Ru": np.ceil, "Rd": np.floor}[op[-2:]]
    whole = to_whole(format.values(codes))
    nan = 1 << 63 if limits.bits == 64 else 0
    nan = nan - (1 << 64) if integer == "long long" else nan
    clamped = [nan if x != x else limits.max if x > limits.max else limits.min if x < limits.min else int(x)
               for x in whole.tolist()]  # fmt: skip
    assert np.array_equal(f(op, integer, cpp, result=dtype[integer])(codes), np.array(clamped, dtype=dtype[integer]))


# Arithmetic. ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", SIXTEEN)
@pytest.mark.parametrize("op", ["Add", "Subtract", "Multiply", "Divide", "HAdd", "HMul", "HAddSat"])
def test_arithmetic(f: Functions, format: Format, op: str) -> None:
    a, b = pairs_of_codes(format)
    x, y = format.values(a), format.values(b)
    exact = {"A": np.add, "S": np.subtract, "M": np.multiply, "D": np.divide}[op.removeprefix("H")[0]](x, y)
    if op == "HAddSat":
        exact = np.where(np.isnan(exact) | (exact <= 0), 0.0, np.minimum(exact, 1))
    assert_codes(format, f(op, format.cpp, format.cpp, format.cpp)(a, b), format.rounded(exact), a, b)


@cache
def positive_values(format: Format) -> list[float]:
    return format.positive().tolist()


def exactly_rounded(format: Format, x: Fraction, mode: str = "rn") -> int:
    table, negative = positive_values(format), x < 0
    below = bisect.bisect_right(table, abs(x)) - 1
    if below == format.overflow:
        code = int(format.round_large(np.bool_(negative), mode))
    elif abs(x) == table[below]:
        code = below
    else:
        middle = (Fraction(table[below]) + Fraction(table[below + 1])) / 2
        nearest = below + (abs(x) > middle or (abs(x) == middle and below % 2))
        code = {"rn": nearest, "rz": below, "ru": below + (not negative), "rd": below + negative}[mode]
    return code + (negative << (format.bits - 1))


def hard_triples(format: Format, count: int) -> Array:
    """Return codes a, b, c: random ones, and such that a * b lies at or near a tie that a tiny c decides."""
    one = int(format.rounded(np.array([1.0]))[0])
    a, b = one + RNG.integers(0, 4 << format.mantissa, (2, count))
    a = np.where(RNG.random(count) < 0.5, RNG.integers(0, format.overflow, count), a)
    c = RNG.integers(0, format.overflow, count)
    c = np.where(RNG.random(count) < 0.3, RNG.integers(0, 64, count), c)
    odd, even = one + (1 << format.mantissa - 1) + 1, one + 1  # (1.5 + u) (1 + u) and the like end in ties
    a, b = (np.where(RNG.random(count) < 0.2, tie, array) for array, tie in ((a, odd), (b, even)))
    signs = RNG.integers(0, 2, (3, count)) << (format.bits - 1)
    return (np.stack([a, b, c]) + signs).astype(format.dtype)


@pytest.mark.parametrize("format", SIXTEEN)
def test_fused_multiply_add_is_rounded_once(f: Functions, format: Format) -> None:
    a, b, c = hard_triples(format, 6000)
    got = f("HFma", *[format.cpp] * 4)(a, b, c)
    exact = [Fraction(x) * Fraction(y) + Fraction(z) for x, y, z in zip(*map(format.values, (a, b, c)), strict=True)]
    expected = np.array([exactly_rounded(format, x) for x in exact])
    zero = (got & 0x7FFF == 0) & (expected & 0x7FFF == 0)  # a Fraction's zero has no sign
    assert_codes(format, np.where(zero, 0, got), np.where(zero, 0, expected), a, b, c)
    twice = format.rounded(format.values(f("Multiply", *[format.cpp] * 3)(a, b)) + format.values(c))
    assert (got != twice).sum() > 50, "these triples would not notice two roundings"

    values = format.values(expected)
    relu = f("HFmaRelu", *[format.cpp] * 4)(a, b, c)
    assert np.array_equal(format.values(relu), np.maximum(values, 0))
    saturated = f("HFmaSat", *[format.cpp] * 4)(a, b, c)
    assert np.array_equal(format.values(saturated), np.clip(values, 0, 1))


@pytest.mark.parametrize("format", SIXTEEN)
def test_fused_multiply_add_of_infinities_and_nan(f: Functions, format: Format) -> None:
    inf, nan, one, minus_inf = format.overflow, 0x7FFF, format.rounded(np.array([1.0]))[0], format.overflow | 0x8000
    rows = [(inf, one, one, inf), (inf, 0, one, -1), (inf, one, minus_inf, -1), (one, one, minus_inf, minus_inf),
            (one, nan, one, -1), (one, one, nan, -1), (0x8000, one, 0x8000, 0x8000), (0x8000, one, 0, 0)]  # fmt: skip
    a, b, c, expected = np.array(rows).T
    inputs = [x.astype(np.uint16) for x in (a, b, c)]
    assert_codes(format, f("HFma", *[format.cpp] * 4)(*inputs), expected, *inputs)


@pytest.mark.parametrize("format", SIXTEEN)
def test_comparisons(f: Functions, format: Format) -> None:
    a, b = pairs_of_codes(format)
    x, y = format.values(a), format.values(b)
    ordered = ~(np.isnan(x) | np.isnan(y))
    plain = [x == y, ordered & (x != y), x < y, x <= y, x > y, x >= y]
    unordered = [test | ~ordered for test in plain]
    operators = [x == y, x != y, *plain[2:]]
    bits = [*plain, *unordered, *operators, np.isnan(x), x != 0]
    expected = sum(bit.astype(np.int32) << i for i, bit in enumerate(bits))
    assert np.array_equal(f("Compare", "int", format.cpp, format.cpp, result=np.int32)(a, b), expected)
    isinf = f("HIsInf", "int", format.cpp, result=np.int32)(a)
    assert np.array_equal(isinf, np.where(np.isinf(x), np.sign(np.nan_to_num(x)), 0))


@pytest.mark.parametrize("format", SIXTEEN)
@pytest.mark.parametrize("op", ["HMax", "HMin", "HMaxNan", "HMinNan"])
def test_minimum_and_maximum(f: Functions, format: Format, op: str) -> None:
    a, b = pairs_of_codes(format)
    x, y = format.values(a), format.values(b)
    order = np.where(np.signbit(x) & (x == 0), -1e-300, x), np.where(np.signbit(y) & (y == 0), -1e-300, y)  # -0 < +0
    choose_a = (order[0] >= order[1]) if "Max" in op else (order[0] <= order[1])
    expected = np.where(choose_a, a, b).astype(np.int64)
    if op.endswith("Nan"):
        expected[np.isnan(x) | np.isnan(y)] = -1
    else:
        expected = np.where(np.isnan(x), b, np.where(np.isnan(y), a, expected)).astype(np.int64)
        expected[np.isnan(x) & np.isnan(y)] = -1
    assert_codes(format, f(op, format.cpp, format.cpp, format.cpp)(a, b), expected, a, b)


@pytest.mark.parametrize("format", SIXTEEN)
def test_signs(f: Functions, format: Format) -> None:
    codes = format.codes()
    nan = np.isnan(format.values(codes))
    assert np.array_equal(f("Negate", format.cpp, format.cpp)(codes), np.where(nan, 0x7FFF, codes ^ 0x8000))
    assert np.array_equal(f("HAbs", format.cpp, format.cpp)(codes), np.where(nan, 0x7FFF, codes & 0x7FFF))


@pytest.mark.parametrize("format", SIXTEEN)
@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions(f: Functions, format: Format, op: str) -> None:
    codes = format.codes()
    got = f(op, format.cpp, format.cpp)(codes)
    expected = format.rounded(FUNCTIONS[op](format.values(codes)))
    if f.device == "cpu" or op in ("HCeil", "HFloor", "HTrunc", "HRint"):
        assert_codes(format, got, expected, codes)
        return
    numbers = expected >= 0
    distance = np.abs(signed_order(got) - signed_order(expected))[numbers]  # a GPU approximates
    assert distance.max() <= 1, (distance.max(), codes[numbers][distance.argmax()])
    assert np.isnan(format.values(got[~numbers])).all()


def signed_order(codes: Array) -> Array:
    codes = codes.astype(np.int64)
    return np.where(codes & 0x8000, -(codes & 0x7FFF), codes & 0x7FFF)


def test_a_kernel_may_have_functions_of_the_same_names(f: Functions) -> None:
    codes = np.array([0x3800, 0x3C00, 0x4000, 0xC000], dtype=np.uint16)
    assert f("OwnNames", "unsigned short", "__half")(codes).tolist() == [0x3800, 0x3C00, 0x3C00, 0xC000]


# Pairs. --------------------------------------------------------------------------------------------------------------


def paired(format: Format, arrays: int) -> list[Array]:
    """Return arrays of [n, 2] codes without NaNs."""
    codes = RNG.integers(0, format.overflow, (arrays, 50_000, 2)) + (RNG.integers(0, 2, (arrays, 50_000, 2)) << 15)
    return list(codes.astype(np.uint16))


@pytest.mark.parametrize("format", SIXTEEN)
@pytest.mark.parametrize("op", PAIR_OPERATIONS)
def test_pairs_work_side_by_side(f: Functions, format: Format, op: str) -> None:
    a, b = paired(format, 2)
    got = f(op, *[PAIRS[format.cpp]] * 3, per_item=2)(a, b)
    expected = f(PAIR_OPERATIONS[op], *[format.cpp] * 3)(a.ravel(), b.ravel())
    assert np.array_equal(got.ravel(), expected)


@pytest.mark.parametrize("format", SIXTEEN)
def test_other_operations_of_pairs(f: Functions, format: Format) -> None:
    pair = PAIRS[format.cpp]
    a, b, c = paired(format, 3)
    b[::3] = a[::3]
    x, y = format.values(a), format.values(b)
    fma = f("HFma", *[format.cpp] * 4)(a.ravel(), b.ravel(), c.ravel())
    assert np.array_equal(f("HFma2", *[pair] * 4, per_item=2)(a, b, c).ravel(), fma)
    assert np.array_equal(f("HNeg2", pair, pair, per_item=2)(a), a ^ 0x8000)
    assert np.array_equal(f("HSwap2", pair, pair, per_item=2)(a), a[:, ::-1])
    assert np.array_equal(f("HGt2", pair, pair, pair, per_item=2)(a, b), format.rounded((x > y).astype(float)))
    mask = f("HLeuMask", "unsigned", pair, pair, result=np.uint16, per_item=2)(a, b)
    assert np.array_equal(mask, np.where(x <= y, 0xFFFF, 0))
    less, unequal = (x < y).all(axis=1), (x != y).all(axis=1)
    all_less = f("HAllLess", "int", pair, pair, result=np.int32)(a, b)
    assert np.array_equal(all_less, less * 3 + unequal * 12)
    total = f("SumHalves", "float", pair, result=np.float32)(a)
    assert np.array_equal(total, x[:, 0].astype(np.float32) + x[:, 1].astype(np.float32))


def test_packing(f: Functions) -> None:
    a, b = RNG.standard_normal((2, 1000)).astype(np.float32) * 100
    both = np.stack([a, b], axis=1).astype(np.float64)
    for op, format in (("PackHalf", HALF), ("PackHalf2", HALF), ("PackBFloat16", BFLOAT16)):
        assert np.array_equal(f(op, PAIRS[format.cpp], "float", "float", per_item=2)(a, b), format.rounded(both))
    for op, format in (("UnpackHalf", HALF), ("UnpackBFloat16", BFLOAT16)):
        (codes,) = paired(format, 1)
        got = f(op, "float2", PAIRS[format.cpp], result=np.float32, per_item=2)(codes)
        assert np.array_equal(got, format.values(codes))
    x, y = paired(HALF, 2)
    for op, pair in (("ShuffleHalf", "__half2"), ("ShuffleBFloat16", "__nv_bfloat162"), ("LowHigh", "__half2")):
        assert np.array_equal(f(op, pair, pair, pair, per_item=2)(x, y), np.stack([x[:, 1], y[:, 0]], axis=1))


# 8 bits. -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "name"), [(E4M3, "E4M3"), (E5M2, "E5M2")])
def test_every_fp8_code(f: Functions, format: Format, name: str) -> None:
    codes, t = format.codes(), f"__nv_fp8_{format.cpp}"
    expected = format.values(codes)
    torch_type = torch.float8_e4m3fn if format is E4M3 else torch.float8_e5m2
    assert np.array_equal(torch.from_numpy(codes).view(torch_type).double().numpy(), expected, equal_nan=True)
    assert_codes(HALF, f(f"{name}ToHalf", "__half", "unsigned char")(codes), HALF.rounded(expected), codes)
    got = f("Convert", "float", t, result=np.float32)(codes)
    assert np.array_equal(got, expected, equal_nan=True)
    assert np.array_equal(np.signbit(got[expected == 0]), [False, True])
    assert np.array_equal(f("Convert", "bool", t, result=np.bool_)(codes), expected != 0)
    whole = np.where(np.isnan(expected), 0, np.clip(expected, -(2**31), 2**31 - 1)).astype(np.int32)
    assert np.array_equal(f("Convert", "int", t, result=np.int32)(codes), whole)


@pytest.mark.parametrize(("format", "name"), [(E4M3, "E4M3"), (E5M2, "E5M2")])
def test_to_fp8(f: Functions, format: Format, name: str) -> None:
    x, t = hard_floats(format), f"__nv_fp8_{format.cpp}"
    largest = format.positive()[-2]
    overflows = -1 if format is E4M3 else format.overflow
    plain = format.rounded(x.astype(np.float64))
    beyond = plain & 0x7F == format.overflow
    signs = np.where(np.isnan(x), 0, plain & 0x80)
    no_sat = np.where(beyond & (plain >= 0), -1 if overflows < 0 else overflows + signs, plain)
    saturated = format.rounded(np.clip(x.astype(np.float64), -largest, largest))
    assert_codes(format, f(f"To{name}NoSat", "unsigned char", "float", result=np.uint8)(x), no_sat, x)
    assert_codes(format, f(f"To{name}", "unsigned char", "float", result=np.uint8)(x), saturated, x)
    assert_codes(format, f("Convert", t, "float", result=np.uint8)(x), saturated, x)
    codes = HALF.codes()
    for wide in SIXTEEN:
        expected = format.rounded(np.clip(wide.values(codes), -largest, largest))
        assert_codes(format, f("Convert", t, wide.cpp, result=np.uint8)(codes), expected, codes)
        raw = {("E4M3", "__nv_bfloat16"): "BFloat16ToE4M3", ("E5M2", "__half"): "HalfToE5M2"}.get((name, wide.cpp))
        if raw:
            assert_codes(format, f(raw, "unsigned char", f"{wide.cpp}_raw", result=np.uint8)(codes), expected, codes)
    integers = np.arange(-1000, 1000, dtype=np.int32)
    expected = format.rounded(np.clip(integers.astype(np.float64), -largest, largest))
    assert_codes(format, f("Convert", t, "int", result=np.uint8)(integers), expected, integers)


def test_double_to_fp8_is_rounded_once(f: Functions) -> None:
    x = hard_floats(E4M3)[:10_000].astype(np.float64)
    x = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])
    expected = E4M3.rounded(np.clip(x, -448, 448))
    assert_codes(E4M3, f("DoubleToE4M3", "unsigned char", "double", result=np.uint8)(x), expected, x)


@pytest.mark.parametrize("format", [E4M3, E5M2])
def test_fp8_in_twos_and_fours(f: Functions, format: Format) -> None:
    t = f"__nv_fp8_{format.cpp}"
    two, four = t.replace("fp8", "fp8x2"), t.replace("fp8", "fp8x4")
    x = (RNG.standard_normal((5000, 4)) * 30).astype(np.float32)
    codes = format.rounded(x.astype(np.float64)).astype(np.uint8)
    assert np.array_equal(f("Convert", four, "float4", result=np.uint8, per_item=4)(x), codes)
    assert np.array_equal(f("Convert", "float4", four, result=np.float32, per_item=4)(codes), format.values(codes))
    halves = codes[:, :2].copy()
    assert np.array_equal(f("Convert", "float2", two, result=np.float32, per_item=2)(halves), format.values(halves))
    for wide in SIXTEEN:
        values = wide.rounded(x[:, :2].astype(np.float64)).astype(np.uint16)
        expected = format.rounded(wide.values(values))
        assert np.array_equal(f("Convert", two, PAIRS[wide.cpp], result=np.uint8, per_item=2)(values), expected)


def test_fp8_pairs_as_integers(f: Functions) -> None:
    a, b = (RNG.standard_normal((2, 1000)) * 30).astype(np.float32)
    expected = E4M3.rounded(np.stack([a, b], axis=1).astype(np.float64))
    pack = f("PackE4M3", "unsigned short", "float", "float", result=np.uint8, per_item=2)
    assert np.array_equal(pack(a, b), expected)
    codes = RNG.integers(0, 0x7B, (1000, 2)).astype(np.uint8)
    unpacked = f("UnpackE5M2", "__half2", "unsigned short", per_item=2)(codes)
    assert np.array_equal(HALF.values(unpacked), E5M2.values(codes))


def test_make_functions(f: Functions) -> None:
    a, b, c = RNG.integers(0, 100, (3, 50))
    floats = [x.astype(np.float32) for x in (a, b, c)]
    made = f("MakeFloat4", "float4", "float", "float", "float", result=np.float32, per_item=4)(*floats)
    assert np.array_equal(made, np.stack([a, b, c, a + b], axis=1))
    shorts = f("MakeShort2", "short2", "short", "short", result=np.int16, per_item=2)(
        *(x.astype(np.int16) for x in (a, b))
    )
    assert np.array_equal(shorts, np.stack([a, b], axis=1))
    chars = ["unsigned char"] * 3
    bytes_ = f("MakeUChar4", "uchar4", *chars, result=np.uint8, per_item=4)(*(x.astype(np.uint8) for x in (a, b, c)))
    assert np.array_equal(bytes_, np.stack([a, b, c, np.full_like(a, 255)], axis=1))
    longs = f("MakeLongLong2", "longlong2", "long long", "long long", result=np.int64, per_item=2)(a, b)
    assert np.array_equal(longs, np.stack([a, b], axis=1))


def test_the_source_compiles_for_a_gpu() -> None:
    wrappers = [(name, f"minisgl::test::{function}") for name, function in exports()]
    load_jit("types", cuda_files=[SOURCE], cuda_wrappers=wrappers, target="cuda", arch="sm_90")
