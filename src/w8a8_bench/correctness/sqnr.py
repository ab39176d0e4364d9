"""The error of a quantization scheme itself: a property of scheme and data, whatever kernel computes the product.

    SQNR = 10 log10(sum ref^2 / sum (ref - q)^2)   in dB
    ref  = X W^T                                   of the unquantized operands (bf16), in float64
    q    = s_a (A - azp) (s_b B)^T                 of what the scheme makes of them, exact, in float64

Bias and output format are left out, and activations quantized inside the timed region become the same A. Cells that
differ only in these share the number. 16-bit operands are not quantized and have no number.

Both sums are over a sample of D: some rows by some columns (`memory.SQNR_ROWS`, `memory.SQNR_COLUMNS`), drawn without
replacement, with all of k. Scales are of the whole operands, as the scheme's own are. Every element is as likely to be
drawn as any other, so that neither sum is biased. Their ratio strays from that of the whole D by 0.1 dB on normal data,
and by up to 0.6 dB with outliers, nearly alike for all schemes since they share the sample.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from w8a8_bench.correctness.quantize import activation_scale, apply_static, weight_scale
from w8a8_bench.problem import BLOCK, ActScale, Problem, WeightScale
from w8a8_bench.problem.memory import SQNR_COLUMNS, SQNR_ROWS, AVariant, BVariant, a_variant, b_variant

Scheme = tuple[AVariant, BVariant]
"""What both operands are quantized to: all that an SQNR depends on, beside the data."""


def scheme_of(problem: Problem) -> Scheme | None:
    """The scheme of `problem`; None for 16-bit operands and for an illegal combination."""
    if problem.scaling is None or problem.why_illegal():
        return None
    return a_variant(problem), b_variant(problem)


def scheme_sqnr_db(
    schemes: Iterable[Scheme], activations: Mapping[str, torch.Tensor], weights: torch.Tensor, *, seed: int
) -> dict[Scheme, dict[str, float]]:
    """The SQNR of each scheme, by the name of the data.

    `activations` by that name, at least one, each [m,k], and `weights` [n,k], unquantized. `seed` is of the sample. A
    ratio that is infinite (operands that the scheme holds exactly) or 0/0 is left out.
    """
    schemes = tuple(dict.fromkeys(schemes))
    if not schemes:
        return {}
    m, n = len(next(iter(activations.values()))), len(weights)
    pick = random.Random(f"{seed} {m} {n}").sample
    rows, columns = (
        torch.tensor(sorted(pick(range(size), min(size, most))), device=weights.device)
        for size, most in ((m, SQNR_ROWS), (n, SQNR_COLUMNS))
    )
    wide = weights[columns].double().t()
    references = {name: x[rows].double() @ wide for name, x in activations.items()}
    variants = dict.fromkeys(a for a, _ in schemes)
    codes = {(name, a): _quantized_activations(x, rows, a) for name, x in activations.items() for a in variants}
    signals = {name: reference.square().sum() for name, reference in references.items()}
    sums: dict[tuple[Scheme, str], torch.Tensor] = {}  # signal and noise, on the device
    for b in dict.fromkeys(b for _, b in schemes):
        wide = _quantized_weights(weights, columns, b).values().t()
        for scheme in (scheme for scheme in schemes if scheme[1] == b):
            for name, reference in references.items():
                noise = (reference - codes[name, scheme[0]].values() @ wide).square_().sum()
                sums[scheme, name] = torch.stack([signals[name], noise])
    found: dict[Scheme, dict[str, float]] = {scheme: {} for scheme in schemes}
    fetched = torch.stack([*sums.values()]).tolist()  # at once, since every fetch waits for the device
    for (scheme, name), (signal, noise) in zip(sums, fetched, strict=True):
        if signal and noise:
            found[scheme][name] = 10 * math.log10(signal / noise)
    return found


@dataclass(frozen=True)
class _Codes:
    """Rows of a quantized operand: q [r,k], and what turns it back, fp32 [1,1], [r,1] or [r, ceil(k/128)]."""

    q: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None

    def values(self) -> torch.Tensor:
        """What the codes stand for: float64 [r,k]. Exact: a scale has 24 bits and a code less its zero point 9."""
        wide = self.q.double()
        if self.zero_point is not None:
            wide -= self.zero_point
        scale = self.scale.double()
        if scale.shape[1] > 1:
            scale = scale.repeat_interleave(BLOCK, dim=1)[:, : wide.shape[1]]
        return wide.mul_(scale)


def _quantized_activations(x: torch.Tensor, rows: torch.Tensor, variant: AVariant) -> _Codes:
    """Rows of x, quantized as a part of the whole of it."""
    fmt, activation, azp = variant
    part = x[rows]
    if activation is ActScale.TENSOR:
        scale, zero_point = activation_scale(x, fmt, activation, azp)
        if zero_point is not None and len(zero_point) > 1:
            zero_point = zero_point[rows]
    else:
        scale, zero_point = activation_scale(part, fmt, activation, azp)
    return _Codes(apply_static(part, scale, zero_point, fmt), scale, zero_point)


def _quantized_weights(w: torch.Tensor, columns: torch.Tensor, variant: BVariant) -> _Codes:
    """Rows of w, which are columns of B, quantized as a part of the whole of it."""
    fmt, weight = variant
    part = w[columns]
    scale = weight_scale(part if weight is WeightScale.CHANNEL else w, fmt, weight)
    if weight is WeightScale.BLOCK:
        scale = scale[columns // BLOCK]
    return _Codes(apply_static(part, scale, None, fmt), scale, None)
