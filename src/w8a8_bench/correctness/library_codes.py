"""The check of codes that a library's own quantization made: they are compared with A, and with no formula.

Libraries compute scales and zero points in ways of their own: by a reciprocal instead of a division, or with 0 left out
of a zero point's range. What each of them owes is accuracy. An element x of A with code q, scale s and zero point z is
right if

    |x - (q - z) s| <= s h + ROUNDING |x|     h is half the step of the format's values around x / s: 1/2 for int8
    s <= (1 + WASTED) s_ref                   s_ref is the scale of `quantize`; a scale that is given must be kept

So no code is further from x than rounding to nearest makes it, at a scale that leaves at most 1% of the format's range
unused. A scale that is too small breaks the first line, where the largest elements saturate. The reference's codes meet
both, and others differ from them only if x / s is a tie of two codes, which are then equally right, or if the scale or
the zero point is another. What share differs is found too, for the record.

That share needs no bound of its own, and none would be both safe and narrow. Ties are rare at most scales. But half of
absmax is always a tie of int8; and if the significand of absmax is a multiple of 7, about 1 in 16 quotients of normal
data in bf16 are ties of fp8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import torch

from w8a8_bench.correctness.oracle import quantized
from w8a8_bench.correctness.quantize import spread
from w8a8_bench.correctness.returned_output import described
from w8a8_bench.kernel import Codes
from w8a8_bench.problem import Activations
from w8a8_bench.problem.formats import FP8_MAX, Format
from w8a8_bench.problem.memory import QUANTIZE_CHUNK, at_once, row_chunks
from w8a8_bench.problem.operands import Operands
from w8a8_bench.text import shown

ROUNDING = 2.0**-21
"""Error of x / s in fp32, relative: a library rounds the scale, its reciprocal and the product, 2^-24 each, a fast
division errs by twice that, and the comparison here rounds twice itself."""

WASTED = 0.01
"""How much larger a scale may be than the reference's, which is the smallest that holds all of A."""

SMALLEST_NORMAL, STEPS_LOG2 = 2.0**-6, 3
"""E4M3's smallest normal value, below which steps no longer shrink, and the steps between powers of two: 2^3."""


@dataclass(frozen=True)
class CodesVerdict:
    """In one line why the codes are wrong, or an empty text; and what share of them, less the zero point, are not the
    reference's."""

    reason: str
    differing: float = 0.0


def on_codes(operands: Operands, codes: Codes) -> Operands:
    """The prequantized operands whose answer the library's GEMM must compute from its own codes."""
    problem = msgspec.structs.replace(operands.problem, activations=Activations.PREQUANTIZED)
    return replace(operands, problem=problem, a=codes.q, scale_a=codes.scale, azp=codes.azp)


def why_shared(codes: Codes, others: Sequence[Codes | None]) -> str | None:
    """Why `codes` can't be judged after the launches of all operand sets, which `others` are the codes of."""
    if sum(other is not None and other.q.data_ptr() == codes.q.data_ptr() for other in others) > 1:
        return "the codes of several operand sets lie in the same memory: allocate them in bind"
    return None


def judge_codes(codes: Codes, operands: Operands) -> CodesVerdict:
    """Compare codes with the A that they are of. The launch that wrote them must have ended."""
    if operands.problem.activations is Activations.PREQUANTIZED:
        return CodesVerdict("declares codes, and its activations were quantized already")
    reference = quantized(operands)
    if reason := _why_no_codes(codes, reference) or _why_wrong_scale(codes, operands, reference):
        return CodesVerdict(reason)
    looks = []
    for part in _parts(operands):
        error, allowed = _errors(codes, operands, part)
        differs = _value(codes.q, codes.azp, part) != _value(reference.a, reference.azp, part)
        differs &= operands.a[part] != 0  # whose code is the zero point, which a library may choose
        looks.append(torch.stack([_wrong(error, allowed).sum(), differs.sum()]))
    wrong, differing = torch.stack(looks).sum(0).tolist()
    total = operands.a.numel()
    if wrong:
        return CodesVerdict(_first_wrong(codes, operands, f"{wrong} of {total} codes are not the nearest to A"))
    return CodesVerdict("", differing / total)


def _parts(operands: Operands) -> list[slice]:
    m, k = operands.a.shape
    return list(row_chunks(m, k, at_once(QUANTIZE_CHUNK, operands.a.device.type)))


def _why_no_codes(codes: Codes, reference: Operands) -> str | None:
    """Which of the tensors is not of the shape, dtype and device that the reference's has."""
    expected = {"q": reference.a, "scale": reference.scale_a, "azp": reference.azp}
    for name, tensor in expected.items():
        given = getattr(codes, name)
        is_text, must_text = (described(x) if isinstance(x, torch.Tensor) else shown(x) for x in (given, tensor))
        if is_text != must_text:
            return f"codes.{name} is {is_text}: expected {must_text}"
    return None


def _why_wrong_scale(codes: Codes, operands: Operands, reference: Operands) -> str | None:
    assert reference.scale_a is not None
    if operands.problem.activations is Activations.STATIC:
        if not torch.equal(codes.scale, reference.scale_a):
            return "codes.scale is not the scale that was given"
        if codes.azp is not None and reference.azp is not None and not torch.equal(codes.azp, reference.azp):
            return "codes.azp is not the zero point that was given"
        return None
    most = reference.scale_a * (1 + WASTED)
    large = ~(codes.scale <= most)  # NaN is neither
    count = int(large.sum())
    if not count:
        return None
    row, column = divmod(int(large.flatten().byte().argmax()), large.shape[1])
    is_value, most_value = float(codes.scale[row, column]), float(most[row, column])
    place = f"first at row {row}, column {column}: {is_value:.6g}, and {most_value:.6g} is enough"
    return f"{count} of {large.numel()} scales of A are too large; {place}"


def _value(q: torch.Tensor, azp: torch.Tensor | None, part: slice) -> torch.Tensor:
    """q - z in fp32, of some rows."""
    value = q[part].float()
    return value if azp is None else value.sub_(azp if azp.shape[0] == 1 else azp[part])


def _errors(codes: Codes, operands: Operands, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """|x - (q - z) s|, and how large it may be, fp32 [rows,k] each."""
    fmt = operands.problem.format
    m, k = operands.a.shape
    x, scale = operands.a[part].float(), spread(codes.scale, part, m, k)
    if operands.problem.activations is Activations.STATIC:  # what is beyond a scale that was given saturates
        zero = 0 if codes.azp is None else codes.azp
        low, high = (-128, 127) if fmt is Format.INT8 else (-FP8_MAX, FP8_MAX)
        x = torch.minimum(torch.maximum(x, (low - zero) * scale), (high - zero) * scale)
    error = _value(codes.q, codes.azp, part).mul_(scale).sub_(x).abs_()
    allowed = scale * _half_step(x, scale, fmt) + x.abs() * ROUNDING
    return error, allowed


def _half_step(x: torch.Tensor, scale: torch.Tensor, fmt: Format) -> torch.Tensor | float:
    """Half the distance between neighbouring values of the format around x / scale."""
    if fmt is Format.INT8:
        return 0.5
    quotient = (x / scale).abs_().nan_to_num_(0.0).clamp_(SMALLEST_NORMAL, FP8_MAX)  # 0 / 0, if all of A is 0
    exponent = torch.frexp(quotient).exponent - 1  # quotient = f 2^(exponent + 1) with f from 1/2 to 1
    return torch.ldexp(torch.ones_like(quotient), exponent - STEPS_LOG2 - 1)


def _wrong(error: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    return ~(error <= allowed)  # NaN is


def _first_wrong(codes: Codes, operands: Operands, counted: str) -> str:
    """`counted`, with the first wrong code and how far it is off, and the worst."""
    first, worst = "", 0.0
    for part in _parts(operands):
        error, allowed = _errors(codes, operands, part)
        ratio = (error / allowed).nan_to_num_(float("inf"))
        worst = max(worst, float(ratio.max()))
        wrong = _wrong(error, allowed)
        if not first and wrong.any():
            row, column = divmod(int(wrong.flatten().byte().argmax()), wrong.shape[1])
            x, off = float(operands.a[part][row, column]), float(error[row, column])
            code = float(codes.q[part][row, column])
            place = f"row {part.start + row}, column {column}"
            first = f"first at {place}: code {code:g} is off by {off:.3g}, and A is {x:.6g}"
    return f"{counted}; {first}; the worst is off by {worst / 2:.3g} steps"
