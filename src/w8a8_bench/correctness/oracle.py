"""The right answer in float64, and how far a kernel's answer may lie from it, element by element.

    D[m,n] = cast(s_a * s_b * (sum_k A[m,k] B[k,n] - azp[m] * sum_k B[k,n]) + bias[n])
    D[m,n] = cast(sum_k (s_a[m, k//128] A[m,k]) (s_b[k//128, n//128] B[k,n]))                blockwise

An element of D is right if

    |D - ref| <= u*|ref| + e,    e = EPILOGUE * (|s_a s_b acc| + |bias|) + c * s_a s_b sqrt(sum_k A^2 B^2)

u is the rounding of the output and c the error of the accumulation. Rounding errors are a random walk: they are
proportional to sqrt(sum_k A^2 B^2), the size of a sum of random signs, whatever the value of the sum itself. A norm
over the whole matrix would miss one bad row in thousands.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from w8a8_bench.correctness.quantize import apply_static, quantize_activations, upcast
from w8a8_bench.problem import BLOCK, BLOCKWISE, Activations, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.memory import CHECK_BYTES, CHECK_CHUNK, PANEL_CHUNK, at_once, row_chunks
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

CACHE_BYTES = 8 * 2**30
"""What an oracle keeps of products if it is not told how much memory is left for them (`product_cache_bytes`)."""

SMALLEST = {Format.BF16: 2.0**-126, Format.FP16: 2.0**-24}
"""A value this small may become 0: the smallest subnormal, but the smallest normal of bf16, since an epilogue may flush
fp32 to zero."""


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
    """float64 [m,n], or rows of it: the value before it is rounded to the output format, and how far D may lie off.

    To be read only: the value may be a part of a product that the oracle keeps.
    """

    value: torch.Tensor
    tolerance: torch.Tensor


@dataclass
class _Product:
    """sum_k A B in float64, and sqrt(sum_k A^2 B^2) in fp32 once it is asked for."""

    value: torch.Tensor
    magnitude: torch.Tensor | None = None

    @property
    def n_bytes(self) -> int:
        return self.value.nbytes + (0 if self.magnitude is None else self.magnitude.nbytes)


class _Known:
    """Gives equal tensors one number, so that equal operands at different addresses share a product: copies in a
    rotation, or an A quantized beforehand and by the oracle. Comparing bits is cheap next to a float64 product, and
    there are at most as many comparisons as different operands, whatever the number of cells."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []

    def number(self, tensor: torch.Tensor) -> int:
        facts = tensor.shape, tensor.dtype, tensor.device, tensor.stride()
        like = [(i, x) for i, x in enumerate(self._tensors) if (x.shape, x.dtype, x.device, x.stride()) == facts]
        for index, other in like:
            if tensor.data_ptr() == other.data_ptr():
                return index
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
        for index, other in like:
            if torch.equal(tensor.view(bits), other.view(bits)):
                return index
        self._tensors.append(tensor)  # held, so that its address is not given to another
        return len(self._tensors) - 1


class Oracle:
    """Right answers for any legal problem, computed on the device of the operands.

    The float64 products cost the most. They are kept up to `cache_bytes`, one at least, and shared by problems and
    calls. Operands must not change while their products are kept: `clear()` before their memory is reused, and at the
    end.
    """

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
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
        operands = quantized(operands)
        c = accumulation_error(problem, fast_accum=fast_accum)
        u = problem.out.unit_roundoff
        product = self._product(operands, with_magnitude=c > 0)
        azp, bias = (None if x is None else x.double() for x in (operands.azp, operands.bias))
        # From B and not from `azp_adj`: that operand is checked with the rest.
        sums = None if azp is None else self._sums(operands.b)
        scale_a, scale_b = _epilogue_scales(operands)
        # An error in fp32 moves what is rounded, hence (1 + u): the output's rounding of the error itself.
        epilogue, accumulation = EPILOGUE * (1 + u), c * (1 + u)
        least = torch.full((1,), SMALLEST[problem.out], dtype=torch.float64, device=operands.a.device)
        if bias is not None:
            least = least + bias.abs() * epilogue
        chunk = at_once(CHECK_CHUNK, least.device.type, n_bytes=CHECK_BYTES)
        for part in row_chunks(problem.shape.m, problem.shape.n, chunk):  # the fewer passes over it, the faster
            scaled = product.value[part]
            if azp is not None and sums is not None:
                scaled = torch.addcmul(scaled, _rows(azp, part), sums, value=-1)
            if scale_a is not None and scale_b is not None:
                scaled = (scaled * _rows(scale_a, part)).mul_(scale_b)
            if bias is None:
                value = scaled
                tolerance = torch.add(least, value.abs(), alpha=u + epilogue)
            else:
                value = scaled + bias
                tolerance = torch.add(least, scaled.abs(), alpha=epilogue).add_(value.abs(), alpha=u)
            if product.magnitude is not None and c > 0:
                magnitude = product.magnitude[part].double()
                if scale_a is not None and scale_b is not None:
                    tolerance.addcmul_(magnitude.mul_(_rows(scale_a, part)), scale_b, value=accumulation)
                else:
                    tolerance.add_(magnitude, alpha=accumulation)
            yield part, Expected(value, tolerance)

    def _product(self, operands: Operands, *, with_magnitude: bool) -> _Product:
        a, b = operands.a, operands.b
        scales = operands.scales() if operands.problem.scaling == BLOCKWISE else ()  # which differ along k
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


def quantized(operands: Operands) -> Operands:
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


def _epilogue_scales(operands: Operands) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Scales that multiply the finished sum, in float64."""
    if operands.scale_a is None or operands.scale_b is None or operands.problem.scaling == BLOCKWISE:
        return None, None
    return operands.scale_a.double(), operands.scale_b.double()


def _rows(vector: torch.Tensor, part: slice) -> torch.Tensor:
    """Those of [m,1], or all there is of [1,1]."""
    return vector if vector.shape[0] == 1 else vector[part]


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
            torch.mm(left, right.t(), out=value[rows, columns])
            if squares is not None:
                torch.mm(left_squares, narrow.square_().t(), out=squares[rows, columns])
    return _Product(value, None if squares is None else squares.sqrt_())


def _widen(part: torch.Tensor, out: torch.Tensor) -> None:
    """Write rows of an operand to `out`, in fp32: exactly, whatever their format."""
    if part.device.type == "cpu" and part.dtype is torch.float8_e4m3fn:
        upcast(part, out)
    else:
        out.copy_(part)
