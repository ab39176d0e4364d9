"""The right answer in float64, and the check of a kernel's answer against it, element by element.

    D[m,n] = cast(s_a * s_b * (sum_k A[m,k] B[k,n] - azp[m] * sum_k B[k,n]) + bias[n])
    D[m,n] = cast(sum_k (s_a[m, k//128] A[m,k]) (s_b[k//128, n//128] B[k,n]))                blockwise

and right is what lies within

    |D - ref| <= u*|ref| + e,    e = EPILOGUE * (|s_a s_b acc| + |bias|) + c * s_a s_b sqrt(sum_k A^2 B^2)

u being the rounding of the output and c that of the accumulation. sqrt(sum_k A^2 B^2) is the size of the sum of random
signs, to which rounding errors of a random walk are proportional whatever the value of the sum itself; a norm over the
whole matrix would miss one bad row in thousands. Where the float64 product takes too long, on a CPU, a random sample of
whole rows is judged so, and the rest of D is looked through for NaN, which is what it holds before it is written.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch

from w8a8_bench.correctness.guard_bands import guard_damage
from w8a8_bench.correctness.quantize import apply_static, quantize_activations, upcast
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import BLOCK, Activations, GemmShape, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.memory import CHECK_CHUNK, PANEL_CHUNK, PRODUCT_CACHE_BYTES, at_once, judged_rows, row_chunks
from w8a8_bench.problem.operands import Operands

# Calibration of the check, all of it. FP8 errors were measured on an H200, fp32 output, 2048 x 2048 elements on normal
# and outlier data (scripts/calibrate_fp8.py; results/calibration/fp8_accumulation_h200.jsonl.gz). They are not normally
# distributed: the largest is about 20 standard deviations, since the accumulator's rounding follows the running sum.

FP8_PRECISE = 4.0e-3
"""Largest error with precise accumulation (promoted to fp32 registers): 2.4e-3 measured at k = 128, falling to 1.1e-3
at k = 65536; 1.7 times the largest, for outputs with more elements than were measured and for other draws."""

FP8_FAST_AT_4096, FP8_FAST_EXPONENT = 4.0e-2, 0.63
"""Largest error with fast accumulation (in the tensor core's short accumulator): 4.0e-2 * (k / 4096)^0.63, which is 1.5
to 2 times the largest measured, 5.9e-3, 2.6e-2, 5.0e-2 and 1.1e-1 at k = 512, 4096, 16384 and 65536."""

FP32_STEP = 16 * 2.0**-24
"""Times sqrt(k), the error of 16-bit products summed in fp32: rounding errors of 2^-24 in a random walk, with room for
tensor cores that truncate instead of rounding."""

SPLIT_K_ROUNDINGS = 4.0
"""A 16-bit GEMM of PyTorch may sum its k-splits in the output format (`allow_bf16_reduced_precision_reduction`). Their
errors add to u/sqrt(3) of the typical sum; this many u are 7 standard deviations."""

EPILOGUE = 2.0**-21
"""Conversion to fp32, two scalings and the bias, each 2^-24 relative, and again as much."""

ROWS_LOOKED_AT = 8
"""Of the rows that hold wrong elements, to find what they are the right answer to."""

SMALLEST = {Format.BF16: 2.0**-126, Format.FP16: 2.0**-24}
"""What may vanish: the smallest subnormal; of bf16 the smallest normal, since its epilogue may flush fp32 to zero."""


def accumulation_error(problem: Problem, *, fast_accum: bool) -> float:
    """`c` above: largest error of the accumulation, relative to sqrt(sum_k A^2 B^2). 0 for int8: int32 is exact."""
    k = problem.shape.k
    if problem.scaling is None:
        return FP32_STEP * math.sqrt(k) + SPLIT_K_ROUNDINGS * problem.out.unit_roundoff
    if problem.format is Format.INT8:
        return 0.0
    if problem.scaling.is_blockwise:
        # Promoted every 128 of k: the short accumulator's errors of each block are independent of the others'.
        return max(FP8_PRECISE, _fp8_fast(BLOCK))
    return max(FP8_PRECISE, _fp8_fast(k)) if fast_accum else FP8_PRECISE


def _fp8_fast(k: int) -> float:
    return FP8_FAST_AT_4096 * math.pow(k / 4096, FP8_FAST_EXPONENT)


@dataclass(frozen=True)
class Expected:
    """float64 [m,n], or rows of it: the value before it is rounded to the output format, and how far D may lie off."""

    value: torch.Tensor
    tolerance: torch.Tensor


@dataclass(frozen=True)
class Verdict:
    """Whether D is right, and in one line why not.

    `relative_error` is the Frobenius norm of D - ref over that of ref, and `worst` the largest error over its
    tolerance; both are infinite where elements are NaN. Both are of `rows` rows, of all where that is None.
    """

    ok: bool
    reason: str
    relative_error: float
    worst: float
    rows: int | None = None


@dataclass
class _Product:
    """sum_k A B in float64, and sqrt(sum_k A^2 B^2) in fp32 once it is asked for."""

    value: torch.Tensor
    magnitude: torch.Tensor | None = None

    @property
    def n_bytes(self) -> int:
        return self.value.nbytes + (0 if self.magnitude is None else self.magnitude.nbytes)


class _Known:
    """Numbers distinct tensors, so that equal operands at other addresses share a product: copies in a rotation, or A
    that was quantized once beforehand and once by the oracle. Comparing bits is cheap next to a float64 product."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []

    def number(self, tensor: torch.Tensor) -> int:
        like = [(i, other) for i, other in enumerate(self._tensors) if _is_like(tensor, other)]
        for index, other in like:
            if tensor.data_ptr() == other.data_ptr():
                return index
        for index, other in like:
            if _has_same_bits(tensor, other):
                return index
        self._tensors.append(tensor)  # held, so that its address is not given to another
        return len(self._tensors) - 1


def _is_like(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and x.device == y.device and x.stride() == y.stride()


def _has_same_bits(x: torch.Tensor, y: torch.Tensor) -> bool:
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()]
    return torch.equal(x.view(bits), y.view(bits))


class Oracle:
    """Right answers for any legal problem, computed on the device of the operands.

    The float64 products, which are what costs, are kept up to `cache_bytes` and shared between problems and calls. They
    belong to operands that do not change: `clear()` before reusing their memory for other values, and when done.
    """

    def __init__(self, cache_bytes: int = PRODUCT_CACHE_BYTES) -> None:
        self._cache_bytes = cache_bytes
        self.clear()

    def clear(self) -> None:
        """Forget all products and let go of the operands."""
        self._known = _Known()
        self._products: OrderedDict[tuple[int, ...], _Product] = OrderedDict()
        self._column_sums: dict[int, torch.Tensor] = {}

    def expected(self, operands: Operands, *, fast_accum: bool = False) -> Expected:
        """The whole answer at once: 16 bytes an element."""
        parts = [part for _, part in self.rows(operands, fast_accum=fast_accum)]
        return Expected(torch.cat([p.value for p in parts]), torch.cat([p.tolerance for p in parts]))

    def rows(self, operands: Operands, *, fast_accum: bool = False) -> Iterator[tuple[slice, Expected]]:
        """The answer for a few rows at a time, from the top."""
        problem = operands.problem
        operands = _quantized(operands)
        c = accumulation_error(problem, fast_accum=fast_accum)
        u = problem.out.unit_roundoff
        product = self._product(operands, with_magnitude=c > 0)
        azp = None if operands.azp is None else operands.azp.double()
        bias = None if operands.bias is None else operands.bias.double()
        scale_a, scale_b = _epilogue_scales(operands)
        for part in row_chunks(problem.shape.m, problem.shape.n, CHECK_CHUNK):
            value = product.value[part].clone()
            if azp is not None:
                # From B and not from `azp_adj`: that operand is checked with the rest.
                value -= (azp if azp.shape[0] == 1 else azp[part]) * self._sums(operands.b)
            scale = None
            if scale_a is not None and scale_b is not None:
                scale = (scale_a if scale_a.shape[0] == 1 else scale_a[part]) * scale_b
                value *= scale
            error = value.abs() * EPILOGUE
            if product.magnitude is not None and c > 0:
                magnitude = product.magnitude[part].double()
                error += magnitude * c if scale is None else magnitude * scale * c
            if bias is not None:
                value += bias
                error += bias.abs() * EPILOGUE
            # An error in fp32 moves what is rounded, hence (1 + u): the output's rounding of the error itself.
            tolerance = value.abs() * u + error * (1 + u) + SMALLEST[problem.out]
            yield part, Expected(value, tolerance)

    def _product(self, operands: Operands, *, with_magnitude: bool) -> _Product:
        a, b = operands.a, operands.b
        scales = _group_scales(operands)
        key = tuple(self._known.number(tensor) for tensor in (a, b, *scales))
        product = self._products.get(key)
        if product is None or (with_magnitude and product.magnitude is None):
            product = self._products[key] = _multiply(a, b, scales, with_magnitude=with_magnitude)
        self._products.move_to_end(key)
        while len(self._products) > 1 and sum(p.n_bytes for p in self._products.values()) > self._cache_bytes:
            self._products.popitem(last=False)
        return product

    def _sums(self, b: torch.Tensor) -> torch.Tensor:
        """Sum of each column of an int8 B, exactly: float64 [n]."""
        key = self._known.number(b)
        if key not in self._column_sums:
            self._column_sums[key] = b.sum(dim=0, dtype=torch.int64).double()
        return self._column_sums[key]


def _quantized(operands: Operands) -> Operands:
    """The prequantized operands of the same answer."""
    problem = operands.problem
    if problem.activations is Activations.PREQUANTIZED:
        return operands
    a, scale, azp = operands.a, operands.scale_a, operands.azp
    if problem.activations is Activations.STATIC:
        assert scale is not None, "static quantization is given its scale"
        q = apply_static(a, scale, azp, problem.format)
    else:
        quantized = quantize_activations(a, problem)
        q, scale, azp = quantized.q, quantized.scale, quantized.azp
    return replace(operands, a=q, scale_a=scale, azp=azp)


def _is_blockwise(problem: Problem) -> bool:
    return problem.scaling is not None and problem.scaling.is_blockwise


def _epilogue_scales(operands: Operands) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Scales that multiply the finished sum, in float64."""
    if operands.scale_a is None or operands.scale_b is None or _is_blockwise(operands.problem):
        return None, None
    return operands.scale_a.double(), operands.scale_b.double()


def _group_scales(operands: Operands) -> tuple[torch.Tensor, ...]:
    """Scales that differ along k, and so belong to the product."""
    if not _is_blockwise(operands.problem):
        return ()
    assert operands.scale_a is not None, "blockwise products are scaled"
    assert operands.scale_b is not None, "blockwise products are scaled"
    return operands.scale_a, operands.scale_b


def _multiply(a: torch.Tensor, b: torch.Tensor, scales: tuple[torch.Tensor, ...], *, with_magnitude: bool) -> _Product:
    """A @ B in float64, exact for 8-bit integers; and sqrt(A^2 @ B^2) in fp32, whose terms all add up.

    In panels of A and B, since whole float64 copies are eight times the operands. Each is converted once for both.
    """
    m, k = a.shape
    w = b.t()  # [n,k] row-major
    value = torch.empty(m, w.shape[0], dtype=torch.float64, device=a.device)
    squares = torch.empty(m, w.shape[0], dtype=torch.float32, device=a.device) if with_magnitude else None
    panels = list(row_chunks(w.shape[0], k, at_once(PANEL_CHUNK, w.device.type, n_bytes=8), multiple=BLOCK))
    # Filled anew for every panel: on a CPU, pages that are new each time cost more than the product of a few rows.
    single, double = (torch.empty(panels[0].stop, k, dtype=t, device=a.device) for t in (torch.float32, torch.float64))
    for rows in row_chunks(m, k, PANEL_CHUNK):
        left = a[rows].double()
        if scales:
            left *= scales[0][rows].double().repeat_interleave(BLOCK, dim=1)[:, :k]
        left_squares = left.float().square_()
        for columns in panels:
            size = columns.stop - columns.start
            narrow, right = single[:size], double[:size]
            _widen(w[columns], narrow)
            right.copy_(narrow)
            if scales:
                blocks = scales[1].t()[columns.start // BLOCK : -(-columns.stop // BLOCK)].double()
                grown = blocks.repeat_interleave(BLOCK, dim=0)[: right.shape[0]]
                right *= grown.repeat_interleave(BLOCK, dim=1)[:, :k]
                narrow.copy_(right)
            value[rows, columns] = left @ right.t()
            if squares is not None:
                squares[rows, columns] = left_squares @ narrow.square_().t()
    return _Product(value, None if squares is None else squares.sqrt_())


def _widen(part: torch.Tensor, out: torch.Tensor) -> None:
    """Write rows of an operand to `out`, in fp32: exactly, whatever their format."""
    if part.device.type == "cpu" and part.dtype is torch.float8_e4m3fn:
        upcast(part, out)
    else:
        out.copy_(part)


def poison(out: torch.Tensor) -> None:
    """Fill an output with NaN, so that an element left unwritten is seen. Guard bands are not touched."""
    out.fill_(float("nan"))


def sample_rows(shape: GemmShape, device: Device, *, seed: int) -> list[int] | None:
    """Rows of D to judge on `device`, in order, drawn from `seed` without replacement; None for all of them."""
    count = judged_rows(shape, cuda=device.is_cuda)
    if count == shape.m:
        return None
    return sorted(random.Random(f"{seed} {shape}").sample(range(shape.m), count))


def check(
    operands: Operands, oracle: Oracle, *, fast_accum: bool = False, rows: Sequence[int] | None = None
) -> Verdict:
    """Compare `operands.out` with the right answer, element by element, and its guard bands where it has them.

    `fast_accum`: FP8 products may be summed in the tensor core's short accumulator. `rows`: those to compare, while the
    others are only looked through for NaN; None compares all. The launch that wrote `out` must have ended, or run on
    the current stream.
    """
    compared = operands if rows is None else _rows_of(_quantized(operands), rows)
    findings = _compare(compared, oracle, fast_accum=fast_accum, rows=rows)
    reasons = [
        findings.reason(_likeness(compared, findings.wrong_rows, fast_accum=fast_accum)),
        None if rows is None else _nan_anywhere(operands.out),
        guard_damage(operands.out),
    ]
    reason = "; ".join(filter(None, reasons))
    return Verdict(not reason, reason, findings.relative_error, findings.worst, None if rows is None else len(rows))


def _compare(operands: Operands, oracle: Oracle, *, fast_accum: bool, rows: Sequence[int] | None = None) -> _Findings:
    """Compare all of `operands.out`, which holds the `rows` of a larger one."""
    findings = _Findings(operands.problem.out, rows)
    for part, expected in oracle.rows(operands, fast_accum=fast_accum):
        findings.add(part.start, operands.out[part], expected)
    return findings


def _nan_anywhere(out: torch.Tensor) -> str | None:
    """What holds NaN of the whole of D, in one line; None where nothing does."""
    nan = out.isnan()
    count = int(nan.sum())
    if not count:
        return None
    row, column = divmod(int(nan.flatten().byte().argmax()), out.shape[1])
    return f"{count} of all {out.numel()} elements are NaN (not written?); first at row {row}, column {column}"


def _likeness(operands: Operands, rows: Sequence[int], *, fast_accum: bool) -> str:
    """What else some rows of D, all of them wrong, are the right answer to; empty where that is nothing known."""
    if not rows:
        return ""
    oracle = Oracle()
    for what, mistaken in _mistaken(_rows_of(_quantized(operands), rows)):
        if not _compare(mistaken, oracle, fast_accum=fast_accum).wrong_rows:
            return f" (the answer {what})"
    return ""


def _mistaken(operands: Operands) -> Iterator[tuple[str, Operands]]:
    """What kernels are apt to forget, and operands to which the answer is then the right one."""
    if operands.scale_a is not None and operands.scale_b is not None:
        one_a, one_b = torch.ones_like(operands.scale_a), torch.ones_like(operands.scale_b)
        yield "without scale_a", replace(operands, scale_a=one_a)
        yield "without scale_b", replace(operands, scale_b=one_b)
        yield "without scales", replace(operands, scale_a=one_a, scale_b=one_b)
    if operands.bias is not None:
        yield "without bias", replace(operands, bias=None)
    if operands.azp is not None:
        yield "without zero point", replace(operands, azp=None)
        yield "with the zero point added", replace(operands, azp=-operands.azp)


def _rows_of(operands: Operands, rows: Sequence[int]) -> Operands:
    """The problem that some rows of A are. `operands` are prequantized."""

    def some(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return tensor if tensor is None or tensor.shape[0] == 1 else tensor[list(rows)]

    problem = operands.problem
    return replace(
        operands,
        problem=msgspec.structs.replace(problem, m=len(rows), activations=Activations.PREQUANTIZED),
        a=operands.a[list(rows)],
        out=operands.out[list(rows)],
        scale_a=some(operands.scale_a),
        azp=some(operands.azp),
    )


class _Findings:
    """What is wrong with D, gathered from the rows as they are compared."""

    def __init__(self, out: Format, rows: Sequence[int] | None = None) -> None:
        self._out, self._rows = out, rows
        self._wrong = self._nans = self._elements = 0
        self._first = self._worst_at = ""
        self.wrong_rows: list[int] = []
        self._error_squares = self._value_squares = 0.0
        self.worst = 0.0

    def add(self, first_row: int, d: torch.Tensor, expected: Expected) -> None:
        got, value, tolerance = d.double(), expected.value, expected.tolerance
        error = (got - value).abs_()
        if self._out is Format.FP16:
            # Past half a step above the largest finite number, infinity is what rounding yields.
            overflow = got.isinf() & (got.sign() == value.sign()) & (value.abs() + tolerance >= 65520.0)
            error.masked_fill_(overflow, 0.0)
            value = value.masked_fill(overflow, 0.0)
        nan = got.isnan()
        ratio = (error / tolerance).masked_fill_(nan, math.inf)
        wrong = ratio > 1.0
        self._elements += got.numel()
        self._nans += int(nan.sum())
        self._error_squares += float(error.square().sum())
        self._value_squares += float(value.square().sum())
        count = int(wrong.sum())
        if count:
            columns = got.shape[1]
            if not self._wrong:
                first = divmod(int(wrong.flatten().byte().argmax()), columns)
                self._first = self._element(first_row, *first, got, expected)
            self._wrong += count
            if len(self.wrong_rows) < ROWS_LOOKED_AT:
                rows = wrong.any(dim=1).nonzero().flatten()[: ROWS_LOOKED_AT - len(self.wrong_rows)]
                self.wrong_rows += (rows + first_row).tolist()
        worst_index = int(ratio.argmax())
        worst = float(ratio.flatten()[worst_index])
        if worst > self.worst or not self._worst_at:
            self.worst = worst
            self._worst_at = self._element(first_row, *divmod(worst_index, got.shape[1]), got, expected)

    def _element(self, first_row: int, row: int, column: int, got: torch.Tensor, expected: Expected) -> str:
        value, right, allowed = (float(t[row, column]) for t in (got, expected.value, expected.tolerance))
        number = first_row + row if self._rows is None else self._rows[first_row + row]
        return f"row {number}, column {column}: got {value:.6g}, expected {right:.6g} +- {allowed:.2g}"

    @property
    def relative_error(self) -> float:
        if self._nans or not math.isfinite(self._error_squares):
            return math.inf
        if self._value_squares == 0.0:
            return 0.0 if self._error_squares == 0.0 else math.inf
        return math.sqrt(self._error_squares / self._value_squares)

    def reason(self, likeness: str = "") -> str | None:
        """One line, or None where every element is right. The worst is often next to 0, so that the first says more."""
        if not self._wrong:
            return None
        nans = f", {self._nans} of them NaN (not written, or made of what out held before?)" if self._nans else ""
        worst = f"; worst at {self._worst_at}" if self._worst_at != self._first else ""
        sample = "" if self._rows is None else f" in a sample of {len(self._rows)} rows"
        wrong = f"{self._wrong} of {self._elements} elements wrong{sample}"
        return f"{wrong}{likeness}{nans}; first at {self._first}{worst}"
