"""Seeded operands for all problems of one shape, sharing whatever two problems have in common.

Cells of a comparison get the same source values. Cells whose formats and scales agree get the very same tensors. So a
difference between their times does not come from their data, and memory is spent once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from w8a8_bench.correctness.guard_bands import make_guarded
from w8a8_bench.correctness.quantize import Quantized, apply_static, quantize, quantize_weights, torch_dtype
from w8a8_bench.problem import BLOCK, Activations, ActScale, Azp, GemmShape, Problem, WeightScale, ceil_div
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.problem.memory import QUANTIZE_CHUNK, AVariant, BVariant, a_variant, at_once, b_variant, row_chunks
from w8a8_bench.problem.operands import Operands

AZP_SHIFT = 0.5
"""Added to the activations of problems with a zero point. Such schemes are for activations that lean to one side, as
after a GELU; on symmetric ones the zero point is near 0 and an error in it hardly shows."""

ONE_SIDED = 1.0
"""Least distance from 0 of all elements of the first such token, if there are several. The range of its zero point must
still hold 0; a kernel whose range does not hold 0 is then found."""

STATIC_ROOM = 1.25
"""Static scales over the scales that A itself would give. A calibrated scale leaves room, and a kernel that ignores it
and computes its own must not find the same."""

STATIC_EDGE = 0.75
"""The same for operands with edge cases, rounded down to a power of two: between 0.375 and 0.75. At run time a
calibrated scale is exceeded, on both sides, and a kernel must saturate. A quotient is exact then, and often a tie."""

TIES = {Format.INT8: 127 / 32, Format.FP8: 448 / 128}
"""Largest magnitude of a row whose scale is then a power of two, so that many of its quotients are ties."""

OUTLIER_FACTOR = 20.0
OUTLIER_SPACING = 256
"""One input channel in so many is an outlier."""

BIAS_FLOOR = 0.5
"""Least magnitude of a bias over that of a typical output: a missing bias shows in every column."""

V = TypeVar("V")


@dataclass(frozen=True)
class _Weights:
    """Weights as [k,n] column-major, their scale, and the exact int64 sum of each column (int8 only)."""

    b: torch.Tensor
    scale: torch.Tensor
    column_sums: torch.Tensor | None


class OperandFactory:
    """Makes the operands of problems of `shape` on `device` (`cpu`, `cuda:0`) from `data` and `seed`.

    Deterministic for a device kind and a version of torch. What it makes is cached and shared between problems, except
    `out`, which is fresh every time: treat the inputs as read-only. With `weights_of`, a factory of the same shape and
    data, it takes the weights that one made instead of making its own. With `edge_cases`, some rows of A are as
    `EdgeRows` says, and static scales are too small for some elements. Raises ValueError for unknown data.
    """

    def __init__(
        self,
        shape: GemmShape,
        device: str,
        *,
        data: str,
        seed: int,
        weights_of: OperandFactory | None = None,
        edge_cases: bool = False,
    ) -> None:
        self.shape = shape
        self.device = torch.device(device)
        self.data = Distribution.parse(data)
        self.seed = seed
        self._cache: dict[Hashable, Any] = {}
        self._weight_cache: dict[Hashable, Any] = weights_of._weight_cache if weights_of else {}
        self._edge_cases = edge_cases

    def make(self, problem: Problem, *, guarded: bool = False) -> Operands:
        """The operands of `problem`. A guarded `out` is poisoned with NaN and lies between guard bands.

        Raises ValueError if the problem has another shape or is illegal.
        """
        if problem.shape != self.shape:
            raise ValueError(f"problem of {problem.shape}: this factory makes {self.shape}")
        if reason := problem.why_illegal():
            raise ValueError(reason)
        m, n, dtype = self.shape.m, self.shape.n, torch_dtype(problem.out)
        if guarded:
            out = make_guarded(m, n, dtype, self.device)
        else:
            out = torch.empty(m, n, dtype=dtype, device=self.device)

        if problem.format not in W8A8_FORMATS:
            return Operands(problem=problem, a=self._wide_a(problem.format), b=self._wide_b(problem.format), out=out)
        weights = self._weights(b_variant(problem))
        if problem.scaling is None:
            return Operands(problem=problem, a=self._activations(a_variant(problem)).q, b=weights.b, out=out)
        a, scale_a, azp = self._side_a(problem)
        return Operands(
            problem=problem,
            a=a,
            b=weights.b,
            out=out,
            scale_a=scale_a,
            scale_b=weights.scale,
            azp=azp,
            azp_adj=None if problem.azp is Azp.NONE else self._azp_adj(problem),
            bias=self._bias(problem.out) if problem.bias else None,
        )

    def forget(self) -> None:
        """Make everything anew when it is next asked for."""
        self._cache, self._weight_cache = {}, {}

    def activations(self, *, shifted: bool = False) -> torch.Tensor:
        """Source activations [m,k] in bf16; with `shifted`, those of problems with a zero point (`AZP_SHIFT`,
        `ONE_SIDED`), which are the same for zeros and units."""
        if shifted and self.data not in (Distribution.ZEROS, Distribution.UNIT):
            return _cached(self._cache, "shifted x", self._shifted)
        return _cached(self._cache, "x", self._unshifted)

    def _unshifted(self) -> torch.Tensor:
        return self._with_edges(self._source(self.shape.m, "x", self._outliers()))

    def _shifted(self) -> torch.Tensor:
        x = self.activations() + AZP_SHIFT
        if self.shape.m > 1:
            x[0] = x[0].abs() + ONE_SIDED
        row = EdgeRows.of(self.shape).ties[Format.INT8]
        if self._edge_cases and (row or self.shape.m == 1):
            largest = TIES[Format.INT8]
            _bound(x[row], -largest - largest / 127, largest)
        return self._with_zeros(x)

    def _with_edges(self, x: torch.Tensor) -> torch.Tensor:
        if self._edge_cases:
            x.clamp_(-TIES[Format.INT8], TIES[Format.INT8])  # so that int8's scale of all of A has ties too
            for fmt, row in EdgeRows.of(self.shape).ties.items():
                _bound(x[row], -TIES[fmt], TIES[fmt])
        return self._with_zeros(x)

    def _with_zeros(self, x: torch.Tensor) -> torch.Tensor:
        if self._edge_cases:
            rows = EdgeRows.of(self.shape)
            if rows.zeros is not None:
                x[rows.zeros] = 0.0
            if rows.zero_group is not None:
                x[rows.zero_group, :BLOCK] = 0.0
        return x

    def weights(self) -> torch.Tensor:
        """Source weights [n,k] in bf16."""
        return _cached(self._weight_cache, "w", lambda: self._source(self.shape.n, "w", None))

    def _side_a(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """A, its scale and its zero point. If the kernel quantizes, A is x, and dynamic scales are the kernel's."""
        x = self.activations(shifted=problem.azp is not Azp.NONE)
        if problem.activations is Activations.DYNAMIC:
            return x, None, None
        quantized = self._activations(a_variant(problem))
        if problem.activations is Activations.STATIC:
            return (
                x,
                self._static_scale(quantized.scale),
                quantized.azp,
            )
        return quantized.q, quantized.scale, quantized.azp

    def _static_scale(self, own: torch.Tensor) -> torch.Tensor:
        """A calibrated scale, from the one that A itself gives."""
        if self.data is Distribution.UNIT:
            return own
        return own.mul(STATIC_EDGE).log2().floor().exp2() if self._edge_cases else own * STATIC_ROOM

    def _activations(self, variant: AVariant) -> Quantized:
        return _cached(self._cache, variant, lambda: self._quantize_a(*variant))

    def _quantize_a(self, fmt: Format, activation: ActScale, azp: Azp) -> Quantized:
        x = self.activations(shifted=azp is not Azp.NONE)
        if self.data is not Distribution.UNIT:
            return quantize(x, fmt, activation, azp)
        m, k = self.shape.m, self.shape.k
        sizes = {ActScale.TENSOR: (1, 1), ActScale.TOKEN: (m, 1), ActScale.GROUP: (m, ceil_div(k, BLOCK))}
        scale = torch.ones(sizes[activation], device=self.device)
        zero_point = None
        if azp is not Azp.NONE:
            rows = torch.arange(1 if azp is Azp.TENSOR else m, dtype=torch.int32, device=self.device)
            zero_point = (rows % 7 + 1).view(-1, 1)  # 1 to 7, and never 0, which would not show
        return Quantized(apply_static(x, scale, zero_point, fmt), scale, zero_point)

    def _weights(self, variant: BVariant) -> _Weights:
        return _cached(self._weight_cache, variant, lambda: self._quantize_b(*variant))

    def _quantize_b(self, fmt: Format, weight: WeightScale) -> _Weights:
        n, k = self.shape.n, self.shape.k
        if self.data is Distribution.UNIT:
            sizes = {WeightScale.TENSOR: (1, 1), WeightScale.CHANNEL: (1, n)}
            scale = torch.ones(sizes.get(weight, (ceil_div(k, BLOCK), ceil_div(n, BLOCK))), device=self.device)
            q = apply_static(self.weights(), torch.ones(1, 1, device=self.device), None, fmt)
        else:
            q, scale = quantize_weights(self.weights(), fmt, weight)
        sums = q.sum(dim=1, dtype=torch.int64) if fmt is Format.INT8 else None
        return _Weights(q.t(), scale, sums)

    def _azp_adj(self, problem: Problem) -> torch.Tensor:
        """int32 [n]: column sums of B, times the zero point if there is one for the whole tensor."""
        return _cached(self._cache, (a_variant(problem), b_variant(problem)), lambda: self._sum_b(problem))

    def _sum_b(self, problem: Problem) -> torch.Tensor:
        sums = self._weights(b_variant(problem)).column_sums
        assert sums is not None, "zero points go with int8"
        if problem.azp is Azp.TENSOR:
            azp = self._activations(a_variant(problem)).azp
            assert azp is not None
            sums = sums * azp.view(()).to(torch.int64)
        if int(sums.abs().max()) >= 2**31:
            raise ValueError(f"azp_adj of {self.shape} does not fit int32")
        return sums.to(torch.int32)

    def _wide_a(self, fmt: Format) -> torch.Tensor:
        return _cached(self._cache, ("wide", fmt), lambda: self.activations().to(torch_dtype(fmt)))

    def _wide_b(self, fmt: Format) -> torch.Tensor:
        return _cached(self._weight_cache, ("wide", fmt), lambda: self.weights().to(torch_dtype(fmt)).t())

    def _bias(self, out: Format) -> torch.Tensor:
        return _cached(self._cache, ("bias", out), lambda: self._make_bias(out))

    def _make_bias(self, out: Format) -> torch.Tensor:
        """[n] of either sign, about as large as the outputs without it: rms(x) * rms(w) * sqrt(k), or 1 for zeros."""
        typical = _rms(self.activations()) * _rms(self.weights()) * self.shape.k**0.5 or 1.0
        z = torch.randn(self.shape.n, generator=self._generator("bias"), device=self.device)
        bias = typical * (z + torch.where(z < 0, -BIAS_FLOOR, BIAS_FLOOR))
        limit = torch.finfo(torch_dtype(out)).max / 4  # leaves the sum room in fp16
        return bias.clamp(-limit, limit).to(torch_dtype(out))

    def _source(self, rows: int, stream: str, outliers: torch.Tensor | None) -> torch.Tensor:
        """[rows, k] in bf16. Drawn in fp32, whose tails bf16 generation lacks, and a chunk at a time."""
        columns = self.shape.k
        values = torch.empty(rows, columns, dtype=torch.bfloat16, device=self.device)
        if self.data is Distribution.ZEROS:
            return values.zero_()
        generator = self._generator(stream)
        for part in row_chunks(rows, columns, at_once(QUANTIZE_CHUNK, self.device.type)):
            drawn = torch.empty(part.stop - part.start, columns, device=self.device)
            if self.data is Distribution.UNIFORM:
                drawn.uniform_(-1.0, 1.0, generator=generator)
            else:
                drawn.normal_(generator=generator)
            if self.data is Distribution.UNIT:
                # int8's range, the narrower one. bf16 holds these integers exactly; fp8 rounds the rare ones past 16.
                drawn.mul_(5.0).round_().clamp_(-128.0, 127.0)
            if outliers is not None:
                drawn[:, outliers] *= OUTLIER_FACTOR
            values[part] = drawn
        return values

    def _outliers(self) -> torch.Tensor | None:
        """Indices of the input channels that are outliers."""
        if self.data is not Distribution.OUTLIERS:
            return None
        k = self.shape.k
        order = torch.randperm(k, generator=self._generator("outliers"), device=self.device)
        return order[: max(1, k // OUTLIER_SPACING)]

    def _generator(self, stream: str) -> torch.Generator:
        """Random numbers of one stream's own, so that nothing depends on what was drawn before."""
        # Hashed, since neighbouring seeds give some generators neighbouring sequences.
        digest = hashlib.blake2b(f"{self.seed} {stream}".encode(), digest_size=8).digest()
        generator = torch.Generator(self.device)
        generator.manual_seed(int.from_bytes(digest, "little") >> 1)  # torch takes 63 bits
        return generator


@dataclass(frozen=True)
class EdgeRows:
    """Rows of A that are edge cases; those for which A has no room are left out.

    zeros       all zeros, as padded tokens are
    zero_group  begins with a group of zeros
    ties        by format: many of its quotients lie in the middle between two codes
    """

    zeros: int | None
    zero_group: int | None
    ties: Mapping[Format, int]

    @classmethod
    def of(cls, shape: GemmShape) -> EdgeRows:
        m = shape.m
        return cls(
            zeros=m - 1 if m > 1 else None,
            zero_group=(m - 1) // 2 if shape.k > BLOCK else None,
            ties={Format.INT8: max(m - 2, 0), **({Format.FP8: m - 3} if m > 5 else {})},
        )

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(row for row in (self.zeros, self.zero_group, *self.ties.values()) if row is not None)


def _bound(row: torch.Tensor, least: float, most: float) -> None:
    """Clamp a row, and have every group of it reach both limits, so that they decide its scale."""
    row.clamp_(least, most)
    row[::BLOCK], row[1::BLOCK] = most, least


def _cached(cache: dict[Hashable, Any], key: Hashable, make: Callable[[], V]) -> V:
    if key not in cache:
        cache[key] = make()
    value: V = cache[key]
    return value


def _rms(values: torch.Tensor) -> float:
    rows, columns = values.shape
    parts = row_chunks(rows, columns, at_once(QUANTIZE_CHUNK, values.device.type))
    squares = torch.stack([values[part].float().square_().sum() for part in parts])
    return float((sum(squares.tolist()) / values.numel()) ** 0.5)
