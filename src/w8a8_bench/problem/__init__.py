"""What is computed: shapes, formats, scaling schemes, problems, kernel names, operands. Nouns: no torch, no numpy.

Here are the shape of a GEMM, its scaling scheme, and everything else that fixes the right answer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import Enum

from msgspec import Struct

from w8a8_bench.problem.formats import OUT_FORMATS, W8A8_FORMATS, Format

BLOCK = 128
"""Edge of a weight block and length of an activation group, in elements."""

MAX_ELEMENTS = 2**31
"""Largest number of elements of one matrix: beyond it, kernels index with more than 32 bits."""


class GemmShape(Struct, frozen=True, kw_only=True, gc=False):
    """Sizes of `D[m,n] = A[m,k] @ B[k,n]`: m tokens, n output features, k input features.

    Keyword arguments only, because the field writes both MKN and MNK. Raises ValueError if a size is below one or a
    matrix has more than `MAX_ELEMENTS` elements.
    """

    m: int
    n: int
    k: int

    def __post_init__(self) -> None:
        for name in ("m", "n", "k"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int):
                raise ValueError(f"{name}={size!r}: expected a whole number")
            if size < 1:
                raise ValueError(f"{name}={size}: expected at least 1")
        for rows, columns in (("m", "k"), ("k", "n"), ("m", "n")):
            elements = getattr(self, rows) * getattr(self, columns)
            if elements > MAX_ELEMENTS:
                raise ValueError(f"{rows} x {columns} of {self} has {elements} elements: at most 2^31 = {MAX_ELEMENTS}")

    def __str__(self) -> str:
        return f"m={self.m} n={self.n} k={self.k}"

    @property
    def mkn(self) -> str:
        """The sub-label of the original's tables: `MKN=(16x4096x6144)`."""
        return f"MKN=({self.m}x{self.k}x{self.n})"


class WeightScale(str, Enum):
    """How finely weights are scaled: one scale, one an output feature, or one a 128x128 block."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    BLOCK = "block"


class ActScale(str, Enum):
    """How finely activations are scaled: one scale, one a token, or one a token and group of 128 input features."""

    TENSOR = "tensor"
    TOKEN = "token"
    GROUP = "group"


@dataclass(frozen=True)
class Scaling:
    """Granularity of both scales. `name` is the field's: `channel-w-token-a`."""

    weight: WeightScale
    activation: ActScale

    @property
    def name(self) -> str:
        return f"{self.weight.value}-w-{self.activation.value}-a"

    def __str__(self) -> str:
        return self.name

    @property
    def is_blockwise(self) -> bool:
        return self.weight is WeightScale.BLOCK

    @classmethod
    @functools.cache
    def parse(cls, name: str) -> Scaling:
        """The scheme called `name`; raises ValueError with the choices."""
        for scheme in SCHEMES:
            if scheme.name == name:
                return scheme
        raise ValueError(f"scheme {name!r}: expected one of {', '.join(s.name for s in SCHEMES)}")


PER_TENSOR = Scaling(WeightScale.TENSOR, ActScale.TENSOR)
BLOCKWISE = Scaling(WeightScale.BLOCK, ActScale.GROUP)
SCHEMES = (
    PER_TENSOR,
    Scaling(WeightScale.TENSOR, ActScale.TOKEN),
    Scaling(WeightScale.CHANNEL, ActScale.TENSOR),
    Scaling(WeightScale.CHANNEL, ActScale.TOKEN),
    BLOCKWISE,
)


class Azp(str, Enum):
    """Zero point of the activations: none, one (static, folded into `azp_adj`), or one a token."""

    NONE = "none"
    TENSOR = "tensor"
    TOKEN = "token"


class Activations(str, Enum):
    """Where A is quantized: before the timed region, or inside it, with scales computed there or given."""

    PREQUANTIZED = "prequantized"
    DYNAMIC = "dynamic"
    STATIC = "static"

    @classmethod
    def parse(cls, token: str) -> Activations:
        try:
            return cls(token)
        except ValueError:
            raise ValueError(f"activations {token!r}: expected one of {', '.join(a.value for a in cls)}") from None


class Problem(Struct, frozen=True, kw_only=True, gc=False):
    """Shape, formats, scaling, zero point, bias and activations: two kernels on equal problems owe the same answer.

    `scheme` is the name of a scaling, None for a plain product (`matmul-no-scales`): operands of 16 bits, or 8-bit
    operands cast inside. The fields are those of a record's `problem`; `of` takes shape and scaling as the rest of the
    program has them. Raises ValueError for sizes that `GemmShape` refuses, and for an unknown scheme.
    """

    m: int
    n: int
    k: int
    format: Format
    out: Format
    scheme: str | None
    azp: Azp = Azp.NONE
    bias: bool = False
    activations: Activations = Activations.PREQUANTIZED

    def __post_init__(self) -> None:
        _shape(self.m, self.n, self.k)
        if self.scheme is not None:
            Scaling.parse(self.scheme)

    @classmethod
    def of(
        cls,
        *,
        shape: GemmShape,
        format: Format,
        out: Format,
        scaling: Scaling | None,
        azp: Azp = Azp.NONE,
        bias: bool = False,
        activations: Activations = Activations.PREQUANTIZED,
    ) -> Problem:
        scheme = scaling.name if scaling else None
        m, n, k = shape.m, shape.n, shape.k
        return cls(m=m, n=n, k=k, format=format, out=out, scheme=scheme, azp=azp, bias=bias, activations=activations)

    @property
    def shape(self) -> GemmShape:
        return _shape(self.m, self.n, self.k)

    @property
    def scaling(self) -> Scaling | None:
        return None if self.scheme is None else Scaling.parse(self.scheme)

    def why_illegal(self) -> str | None:
        """The reason why this combination has no meaning, or None if it has one."""
        if self.out not in OUT_FORMATS:
            return f"output format {self.out.value}: expected bf16 or fp16"
        if self.scaling is None:
            if self.azp is not Azp.NONE or self.bias or self.activations is not Activations.PREQUANTIZED:
                return "a product without scales takes no zero point, bias or quantization"
            return None
        if self.format not in W8A8_FORMATS:
            return f"{self.format.value} operands take no scales"
        scheme, act = self.scaling.name, self.scaling.activation
        if self.scaling.is_blockwise:
            if self.format is Format.INT8:
                return f"{scheme} is defined for fp8 only, not int8"
            if self.bias:
                return f"{scheme} takes no bias"
        if self.azp is not Azp.NONE and self.format is not Format.INT8:
            return "fp8 takes no zero point"
        if self.azp is Azp.TENSOR and act is not ActScale.TENSOR:
            return f"a zero point per tensor goes with an activation scale per tensor, not {scheme}"
        if self.activations is Activations.STATIC:
            if act is not ActScale.TENSOR:
                return f"static quantization goes with an activation scale per tensor, not {scheme}"
            if self.azp is Azp.TOKEN:
                return "a zero point per token is computed from the token: static quantization has none"
        if self.activations is Activations.DYNAMIC:
            if self.azp is Azp.TENSOR:
                return "a zero point per tensor is static: dynamic quantization has zero points per token"
            if self.azp is Azp.TOKEN and act is not ActScale.TOKEN:
                return "dynamic quantization with a zero point per token has its scale per token too"
        return None


@functools.lru_cache(maxsize=1 << 16)
def _shape(m: int, n: int, k: int) -> GemmShape:
    return GemmShape(m=m, n=n, k=k)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
