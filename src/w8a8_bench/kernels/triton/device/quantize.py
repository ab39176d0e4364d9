"""Quantization by the formulas of `correctness.quantize`, bit for bit: IEEE division, rounding to nearest even.

`tl.div_rn` is `div.rn.f32`; a plain `/` is `div.full.f32`, which is off by up to 2 units in the last place (PTX ISA).
A division an element costs more than memory does, so elements are divided through the reciprocal of their scale:
a few instructions that give the same codes (`_quotient`).
x [rows, columns] in bf16, fp16 or fp32 and q of the same shape are row-major, rows `stride_x` and `stride_q` apart.
Scales are fp32, zero points int32. `by_token` and `by_group` read x once: what a scale is computed from stays in
registers until its codes are written. A scale for the whole tensor takes two kernels, `largest` and `by_tensor`.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from w8a8_bench.correctness.quantize import FP8_GROUP_FLOOR, FP8_TENSOR_FLOOR, FP8_TOKEN_FLOOR
from w8a8_bench.problem import formats

FP8_MAX = tl.constexpr(formats.FP8_MAX)
TENSOR_FLOOR = tl.constexpr(FP8_TENSOR_FLOOR)
TOKEN_FLOOR = tl.constexpr(FP8_TOKEN_FLOOR)
GROUP_FLOOR = tl.constexpr(FP8_GROUP_FLOOR)
BLOCK = tl.constexpr(128)

NO_FRACTION = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a number below 2^22 it leaves no bits for a fraction, and the sum is rounded to nearest even."""

BITS_OF_NO_FRACTION = tl.constexpr(0x4B400000)

LEAST_NORMAL, NO_FINER = tl.constexpr(2.0**-6), tl.constexpr(1.5 * 2.0**14)
"""Of E4M3: its least normal number, and a number whose last bit is worth 2^-9, as is that of its subnormal numbers."""

LEAST_MODERATE, MOST_MODERATE = tl.constexpr(2.0**-60), tl.constexpr(2.0**60)
"""Scales between these have a reciprocal, and elements a remainder, that is neither infinite nor subnormal."""

ENLARGING, REDUCING = tl.constexpr(2.0**100), tl.constexpr(2.0**-100)
"""Times these, other scales are moderate. What gets subnormal with them is far below the least code."""


@triton.jit
def _round(x):
    return (x + NO_FRACTION) - NO_FRACTION


@triton.jit
def _clamp(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def _one_where_zero(scale):
    return tl.where(scale == 0.0, 1.0, scale)


@triton.jit
def _round_to_fp8(x):
    """The nearest number of E4M3 to |x| <= 448, halves to even: 3 bits after the first, or multiples of 2^-9."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
    subnormal = ((x + NO_FINER) - NO_FINER).to(tl.int32, bitcast=True) | (bits & -0x80000000)
    return tl.where(tl.abs(x) < LEAST_NORMAL, subnormal, rounded).to(tl.float32, bitcast=True)


@triton.jit
def _codes(
    x,
    scale,
    azp,
    INT8: tl.constexpr,
    ONE_CAST: tl.constexpr,
    FUSED: tl.constexpr,
    GIVEN: tl.constexpr = False,
):
    """Codes of x: int8, or fp32 that the cast to FP8 rounds right.

    ONE_CAST: the GPU has an instruction from fp32 to FP8, which saturates. A cast through fp16 rounds twice,
    and numbers just off the middle of two codes end on the wrong one, unless they are codes before they are cast.
    FUSED: `tl.fma` rounds once, as on every GPU and not in Triton's interpreter.
    GIVEN: the scale was not computed from x, so x may be any multiple of it.
    """
    # The quotients of the first and the last code: what is beyond gets these codes too.
    if INT8:
        low, high = -128.0, 127.0
        if azp is not None:
            low, high = low - azp.to(tl.float32), high - azp.to(tl.float32)
    else:
        low, high = -FP8_MAX, FP8_MAX
    if FUSED:
        IS_SHORT: tl.constexpr = x.dtype != tl.float32
        x = x.to(tl.float32)
        if INT8 or GIVEN:  # FP8's computed scales have floors, and large ones do no harm to numbers that are no larger
            is_moderate = _is_moderate(scale)
            if not is_moderate:
                factor = tl.where(scale < LEAST_MODERATE, ENLARGING, tl.where(scale > MOST_MODERATE, REDUCING, 1.0))
                x, scale = x * factor, scale * factor
                if not GIVEN:
                    x = _clamp(x, scale * low, scale * high)  # a subnormal scale is coarse
        if GIVEN:
            x = _clamp(x, scale * low, scale * high)
        quotient = _quotient(x, scale, IS_SHORT)
    else:
        quotient = _clamp(tl.div_rn(x.to(tl.float32), scale), low, high)
    if INT8:
        codes = (quotient + NO_FRACTION).to(tl.int32, bitcast=True)  # of which the low bits are the rounded quotient
        if azp is None:
            codes = codes.to(tl.int8)
        elif FUSED and not GIVEN:
            codes = _saturated(codes + (azp - BITS_OF_NO_FRACTION))  # both roundings may have gone the same way
        else:
            codes = (codes + azp).to(tl.int8)
    elif ONE_CAST:
        codes = quotient
    else:
        codes = _round_to_fp8(_clamp(quotient, low, high))
    return codes


@triton.jit
def _saturated(codes):
    """int8 of int32, or the nearest int8 if it is out of range. The GPU packs four like this in two instructions."""
    return tl.inline_asm_elementwise(
        """
        {
            .reg .b32 upper;
            cvt.pack.sat.s8.s32.b32 upper, $4, $3, 0;
            cvt.pack.sat.s8.s32.b32 $0, $2, $1, upper;
        }
        """,
        "=r,r,r,r,r",
        [codes],
        dtype=tl.int8,
        is_pure=True,
        pack=4,
    )


@triton.jit
def _is_moderate(scale):
    """Whether every scale, of a block or a scalar, is moderate."""
    least, most = scale, scale
    if scale.type.is_block():
        least, most = tl.min(scale), tl.max(scale)
    return (least >= LEAST_MODERATE) & (most <= MOST_MODERATE)


@triton.jit
def _quotient(x, scale, IS_SHORT: tl.constexpr):
    """x / scale: rounded to nearest even, or to a number that gives the same codes.

    With the correctly rounded reciprocal, a quotient off by less than a unit in its last place and the exact remainder,
    one fused multiply-add gives the correctly rounded quotient (Markstein, "Computation of elementary functions on the
    IBM RISC System/6000 processor", 1990). x times the reciprocal may be off by one and a half units, so two such steps
    are right for every x. After one step, what is rounded is off by less than 2^-21 units. That matters only to a
    quotient so close to the middle of two numbers, and to its code only if one of the two is midway between two codes.
    IS_SHORT: x has at most 11 significant bits, and of such x and scales none comes so near but one, to which one step
    does right (the tests try all that may).
    Remainders are negative ones, with which the quotient of -0 is -0.
    """
    reciprocal = tl.div_rn(1.0, scale)
    # An infinite scale, of infinite x: its reciprocal is 0, and the quotients are 0 or not a number without remainders.
    scale = tl.where(scale == float("inf"), 0.0, scale)
    minus_x, minus_reciprocal = x * -1.0, reciprocal * -1.0  # Triton's `-y` is 0 - y, which has no -0
    quotient = x * reciprocal
    for _ in tl.static_range(1 if IS_SHORT else 2):
        quotient = tl.fma(tl.fma(quotient, scale, minus_x), minus_reciprocal, quotient)
    return quotient


@triton.jit
def _chunk(index, chunks, columns, LENGTH: tl.constexpr):
    """Chunk `index` of LENGTH elements, `chunks` to a row: its row, its columns, and which of them exist."""
    column = (index % chunks).to(tl.int64) * LENGTH + tl.arange(0, LENGTH)
    return (index // chunks).to(tl.int64), column, column < columns


@triton.jit
def static(
    x,
    q,
    scale,
    azp,
    columns,
    stride_x,
    stride_q,
    chunks,
    INT8: tl.constexpr,
    ONE_CAST: tl.constexpr,
    FUSED: tl.constexpr,
    LENGTH: tl.constexpr,
):
    """One scale, and one zero point or None, that are given. A program for each chunk."""
    row, column, inside = _chunk(tl.program_id(0), chunks, columns, LENGTH)
    values = tl.load(x + row * stride_x + column, mask=inside, other=0.0)
    zero_point = None
    if azp is not None:
        zero_point = tl.load(azp)
    codes = _codes(values, tl.load(scale), zero_point, INT8, ONE_CAST, FUSED, GIVEN=True)
    tl.store(q + row * stride_q + column, codes.to(q.dtype.element_ty), mask=inside)


@triton.jit
def largest(x, parts, columns, stride_x, chunks, count, LENGTH: tl.constexpr, OVERLAP: tl.constexpr):
    """parts[program] = the largest magnitude of the program's chunks, of `count` in all."""
    if OVERLAP:
        gdc_launch_dependents()
    most = tl.zeros((LENGTH,), tl.float32)
    for index in tl.range(tl.program_id(0), count, tl.num_programs(0)):
        row, column, inside = _chunk(index, chunks, columns, LENGTH)
        values = tl.load(x + row * stride_x + column, mask=inside, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.abs(values))
    tl.store(parts + tl.program_id(0), tl.max(most, axis=0))


@triton.jit
def by_tensor(
    x,
    q,
    scale,
    parts,
    columns,
    stride_x,
    stride_q,
    chunks,
    parts_count,
    INT8: tl.constexpr,
    ONE_CAST: tl.constexpr,
    FUSED: tl.constexpr,
    LENGTH: tl.constexpr,
    PARTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One scale, from what `largest` found: every program computes it, and the first one writes it down.

    The last chunks come first: they are what `largest` left in the L2. OVERLAP: programs begin while those of `largest`
    end, and have their chunk by the time that they may read what those wrote.
    """
    row, column, inside = _chunk(tl.num_programs(0) - 1 - tl.program_id(0), chunks, columns, LENGTH)
    values = tl.load(x + row * stride_x + column, mask=inside, other=0.0)
    if OVERLAP:
        gdc_wait()
    part = tl.arange(0, PARTS)
    absmax = tl.max(tl.load(parts + part, mask=part < parts_count, other=0.0), axis=0)
    if INT8:
        s = _one_where_zero(tl.div_rn(absmax, 127.0))
    else:
        s = tl.div_rn(tl.maximum(absmax, TENSOR_FLOOR), FP8_MAX)
    if tl.program_id(0) == 0:
        tl.store(scale, s)
    codes = _codes(values, s, None, INT8, ONE_CAST, FUSED)
    tl.store(q + row * stride_q + column, codes.to(q.dtype.element_ty), mask=inside)


@triton.jit
def by_token(
    x,
    q,
    scale,
    azp,
    rows,
    columns,
    stride_x,
    stride_q,
    INT8: tl.constexpr,
    ONE_CAST: tl.constexpr,
    FUSED: tl.constexpr,
    ROWS: tl.constexpr,
    LENGTH: tl.constexpr,
    IN_REGISTERS: tl.constexpr,
):
    """A scale for each row, and a zero point if `azp` is not None. A program takes ROWS rows.

    IN_REGISTERS: LENGTH holds a row. Else rows are read twice, LENGTH elements at a time, the second time from the L2.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists = (row < rows)[:, None]
    from_row = x + row.to(tl.int64)[:, None] * stride_x
    to_row = q + row.to(tl.int64)[:, None] * stride_q
    column = tl.arange(0, LENGTH)[None, :]
    if IN_REGISTERS:
        inside = exists & (column < columns)
        values = tl.load(from_row + column, mask=inside, other=0.0)
        low, high = _range(values, azp is None)
    else:
        low, high = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
        for start in tl.range(0, columns, LENGTH):
            values = tl.load(from_row + start + column, mask=exists & (start + column < columns), other=0.0)
            lower, higher = _range(values, azp is None)
            low, high = tl.minimum(low, lower), tl.maximum(high, higher)
    zero_point = None
    if azp is not None:
        s = _one_where_zero(tl.div_rn(high - low, 255.0))
        zero_point = _round(_clamp(-128.0 - tl.div_rn(low, s), -128.0, 127.0)).to(tl.int32)[:, None]
        tl.store(azp + row[:, None], zero_point, mask=exists)
    elif INT8:
        s = _one_where_zero(tl.div_rn(high, 127.0))
    else:
        s = tl.maximum(tl.div_rn(high, FP8_MAX), TOKEN_FLOOR)
    tl.store(scale + row, s, mask=row < rows)
    if IN_REGISTERS:
        codes = _codes(values, s[:, None], zero_point, INT8, ONE_CAST, FUSED)
        tl.store(to_row + column, codes.to(q.dtype.element_ty), mask=inside)
    else:
        for start in tl.range(0, columns, LENGTH):
            inside = exists & (start + column < columns)
            values = tl.load(from_row + start + column, mask=inside, other=0.0)
            codes = _codes(values, s[:, None], zero_point, INT8, ONE_CAST, FUSED)
            tl.store(to_row + start + column, codes.to(q.dtype.element_ty), mask=inside)


@triton.jit
def _range(values, SYMMETRIC: tl.constexpr):
    """Least and largest value of each row, widened to hold 0; symmetric, 0 and the largest magnitude."""
    values = values.to(tl.float32)
    if SYMMETRIC:
        high = tl.max(tl.abs(values), axis=1)
        return tl.zeros_like(high), high
    else:
        low, high = tl.reduce((values, values), 1, _least_and_most)
        return tl.minimum(low, 0.0), tl.maximum(high, 0.0)


@triton.jit
def _least_and_most(low, high, other_low, other_high):
    return tl.minimum(low, other_low), tl.maximum(high, other_high)


@triton.jit
def by_group(
    x,
    q,
    scale,
    columns,
    stride_x,
    stride_q,
    stride_scale_m,
    stride_scale_k,
    groups,
    count,
    INT8: tl.constexpr,
    ONE_CAST: tl.constexpr,
    FUSED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """A scale for each 128 elements: `groups` to a row, `count` in all. A program takes GROUPS of them."""
    index = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    row, group = (index // groups).to(tl.int64), index % groups
    column = group[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (index < count)[:, None] & (column < columns)
    values = tl.load(x + row[:, None] * stride_x + column, mask=inside, other=0.0)
    absmax = tl.max(tl.abs(values.to(tl.float32)), axis=1)
    if INT8:
        s = _one_where_zero(tl.div_rn(absmax, 127.0))
    else:
        s = tl.div_rn(tl.maximum(absmax, GROUP_FLOOR), FP8_MAX)
    tl.store(scale + row * stride_scale_m + group * stride_scale_k, s, mask=index < count)
    codes = _codes(values, s[:, None], None, INT8, ONE_CAST, FUSED)
    tl.store(q + row[:, None] * stride_q + column, codes.to(q.dtype.element_ty), mask=inside)
