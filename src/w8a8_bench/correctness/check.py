"""The check of an answer against the oracle's, element by element: the verdict, and what a wrong answer is like.

A right answer is looked at once: three numbers are found on its device and fetched at the end, since every fetch waits
for the device. Only a wrong answer is looked at again, for how many elements are wrong, and which.

If the oracle's float64 product takes too long, as on a CPU, only a random sample of whole rows is compared with it. The
rest of D is searched for NaN, which is what D holds before it is written.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch

from w8a8_bench.correctness.guard_bands import guard_damage
from w8a8_bench.correctness.operand_factory import EdgeRows
from w8a8_bench.correctness.oracle import Expected, Oracle, quantized
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import BLOCK, Activations, GemmShape
from w8a8_bench.problem.formats import FP8_MAX, Format
from w8a8_bench.problem.memory import judged_rows
from w8a8_bench.problem.operands import Operands

FP16_OVERFLOW = 65520.0
"""Half a step above fp16's largest finite number."""

ROWS_LOOKED_AT = 8
"""Rows with wrong elements that are compared with the answers of known mistakes."""


@dataclass(frozen=True)
class Verdict:
    """Whether D is right, and in one line why not.

    `relative_error` is the Frobenius norm of D - ref over that of ref, and `worst` the largest error over its
    tolerance; both are infinite if elements are NaN. Both are of `rows` rows; None means all rows.
    """

    ok: bool
    reason: str
    relative_error: float
    worst: float
    rows: int | None = None


def poison(out: torch.Tensor) -> None:
    """Fill an output with NaN, so that an element left unwritten is seen. Guard bands are not touched."""
    out.fill_(float("nan"))


def sample_rows(shape: GemmShape, device: Device, *, seed: int) -> list[int] | None:
    """Rows of D to judge on `device`, in order; None for all of them. They are drawn from `seed` without replacement,
    but for those of edge cases, which are always there."""
    count = judged_rows(shape, cuda=device.is_cuda)
    if count == shape.m:
        return None
    edges = EdgeRows.of(shape).all
    others = [row for row in range(shape.m) if row not in edges]
    return sorted([*edges, *random.Random(f"{seed} {shape}").sample(others, count - len(edges))])


def check(
    operands: Operands, oracle: Oracle, *, fast_accum: bool = False, rows: Sequence[int] | None = None
) -> Verdict:
    """Compare `operands.out` with the right answer, element by element, and check its guard bands if it has any.

    `fast_accum`: FP8 products may be summed in the tensor core's short accumulator. `rows`: the rows to compare; the
    others are only searched for NaN. None compares all. The launch that wrote `out` must have ended, or run on the
    current stream.
    """
    compared = operands if rows is None else _rows_of(quantized(operands), rows)
    findings = _compare(compared, oracle, fast_accum=fast_accum, rows=rows)
    likeness = _likeness(compared, findings.wrong_rows, fast_accum=fast_accum)
    reasons = [
        findings.reason(likeness or _edge_case(compared, findings.wrong_rows)),
        None if rows is None else _nan_anywhere(operands.out),
        guard_damage(operands.out),
    ]
    reason = "; ".join(filter(None, reasons))
    return Verdict(not reason, reason, findings.relative_error, findings.worst, None if rows is None else len(rows))


def _compare(operands: Operands, oracle: Oracle, *, fast_accum: bool, rows: Sequence[int] | None = None) -> _Findings:
    """Compare all of `operands.out`, which holds the `rows` of a larger one."""
    findings = _Findings(rows)
    looks = [_look(operands.out[part], expected) for part, expected in oracle.rows(operands, fast_accum=fast_accum)]
    if not findings.all_right(torch.stack(looks).tolist()):
        for part, expected in oracle.rows(operands, fast_accum=fast_accum):
            findings.add(part.start, operands.out[part], expected)
    return findings


def _look(d: torch.Tensor, expected: Expected) -> torch.Tensor:
    """float64 [3], on the device of `d`: the norm of the error, that of the right answer, and the largest error over
    its tolerance. If an element of `d` is NaN, the last is."""
    error, value = _difference(d, expected)
    sizes = [torch.linalg.vector_norm(error), torch.linalg.vector_norm(value)]
    lowest, highest = torch.aminmax(error.div_(expected.tolerance))
    return torch.stack([*sizes, torch.maximum(-lowest, highest)])


def _difference(d: torch.Tensor, expected: Expected) -> tuple[torch.Tensor, torch.Tensor]:
    """D - ref and ref, float64 [m,n]. Both are 0 where fp16 overflows as it must.

    Past half a step above the largest finite number, infinity is what rounding yields.
    """
    value = expected.value
    error = d.double().sub_(value)
    if d.dtype is torch.float16:
        beyond = value.abs().add_(expected.tolerance) >= FP16_OVERFLOW
        overflow = d.isinf().logical_and_(d.signbit() == value.signbit()).logical_and_(beyond)
        error.masked_fill_(overflow, 0.0)
        value = value.masked_fill(overflow, 0.0)
    return error, value


def _nan_anywhere(out: torch.Tensor) -> str | None:
    """In one line, which elements of the whole D are NaN; None if none is."""
    nan = out.isnan()
    count = int(nan.sum())
    if not count:
        return None
    row, column = divmod(int(nan.flatten().byte().argmax()), out.shape[1])
    return f"{count} of all {out.numel()} elements are NaN (not written?); first at row {row}, column {column}"


def _likeness(operands: Operands, rows: Sequence[int], *, fast_accum: bool) -> str:
    """Which known mistake some wrong rows of D are the right answer to; empty if none is."""
    if not rows:
        return ""
    oracle = Oracle()
    own = [*_quantized_otherwise(operands), *_mistaken(quantized(operands))]
    for what, mistaken in own:
        if not _compare(_rows_of(mistaken, rows), oracle, fast_accum=fast_accum).wrong_rows:
            return f" (the answer {what})"
    return ""


def _quantized_otherwise(operands: Operands) -> Iterator[tuple[str, Operands]]:
    """What kernels that quantize to int8 often do with a quotient, and the operands for which that would be right."""
    problem, right = operands.problem, quantized(operands)
    if problem.activations is Activations.PREQUANTIZED or problem.format is not Format.INT8 or right.scale_a is None:
        return
    x, scale = operands.a.float(), right.scale_a
    zero = 0.0 if right.azp is None else right.azp.float()
    ways = {
        "if ties are rounded up": torch.floor(x / scale + 0.5) + zero,
        "if A is multiplied by 1 / scale": torch.round(x * (1 / scale)) + zero,
        "if A / scale is cut off and not rounded": torch.trunc(x / scale) + zero,
    }
    for what, codes in ways.items():
        yield what, replace(right, a=codes.clamp(-128, 127).to(torch.int8))
    wrapped = torch.remainder(torch.round(x / scale) + zero + 128, 256) - 128
    yield "if codes beyond int8 wrap around instead of saturating", replace(right, a=wrapped.to(torch.int8))


def _edge_case(operands: Operands, rows: Sequence[int]) -> str:
    """What is special about the wrong rows, if they are special in the same way; empty if they are not."""
    if not rows:
        return ""
    a = operands.a[list(rows)].double()
    if not a.any():
        return " (where A is all zeros)"
    if a.shape[1] > BLOCK and not a[:, :BLOCK].any():
        return f" (where the first {BLOCK} elements of a row of A are zeros)"
    if operands.problem.activations is Activations.STATIC and operands.out[list(rows)].isnan().any():
        assert operands.scale_a is not None, "static quantization is given its scale"
        codes = a / operands.scale_a
        if operands.problem.format is Format.FP8 and (codes.abs() > FP8_MAX).any(dim=1).all():
            return f" (where A leaves the range of its static scale: codes beyond {FP8_MAX:g} must saturate)"
    return ""


def _mistaken(operands: Operands) -> Iterator[tuple[str, Operands]]:
    """What kernels often forget, and the operands for which such an answer would be right."""
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
    """The problem of some rows of A. `operands` are prequantized."""

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

    def __init__(self, rows: Sequence[int] | None = None) -> None:
        self._rows = rows
        self._wrong = self._nans = self._elements = 0
        self._first = self._worst_at = ""
        self.wrong_rows: list[int] = []
        self._error_squares = self._value_squares = 0.0
        self.worst = 0.0

    def all_right(self, looks: Sequence[Sequence[float]]) -> bool:
        """Take in what `_look` found of all rows, unless some may be wrong: that is for `add` to say."""
        errors, values, ratios = zip(*looks, strict=True)
        if not all(ratio <= 1.0 for ratio in ratios):  # which NaN is not either
            return False
        self._error_squares, self._value_squares = math.hypot(*errors) ** 2, math.hypot(*values) ** 2
        self.worst = max(ratios)
        return True

    def add(self, first_row: int, d: torch.Tensor, expected: Expected) -> None:
        """Compare some rows in detail."""
        got = d.double()
        error, value = _difference(d, expected)
        ratio = error.abs_() / expected.tolerance
        ratio.masked_fill_(ratio.isnan(), math.inf)
        wrong = ratio > 1.0
        self._elements += got.numel()
        self._nans += int(got.isnan().sum())
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
        """One line, or None if every element is right. The worst is often close to 0, so the first says more."""
        if not self._wrong:
            return None
        nans = f", {self._nans} of them NaN (not written, or made of what out held before?)" if self._nans else ""
        worst = f"; worst at {self._worst_at}" if self._worst_at != self._first else ""
        sample = "" if self._rows is None else f" in a sample of {len(self._rows)} rows"
        wrong = f"{self._wrong} of {self._elements} elements wrong{sample}"
        return f"{wrong}{likeness}{nans}; first at {self._first}{worst}"
