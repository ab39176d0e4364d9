"""What is compared when schemes are: format, scales and zero point, whatever the kernel."""

from __future__ import annotations

from dataclasses import dataclass

from w8a8_bench.problem import ActScale, Azp, Problem, Scaling, WeightScale
from w8a8_bench.problem.formats import Format

ALSO_CALLED = {
    (Format.FP8, "tensor-w-tensor-a"): "FP8 per tensor; compressed-tensors FP8 (static)",
    (Format.FP8, "tensor-w-token-a"): "FP8, weights per tensor, activations per token; vLLM fp8_per_tensor",
    (Format.FP8, "channel-w-tensor-a"): "FP8, weights per channel, activations per tensor",
    (Format.FP8, "channel-w-token-a"): "FP8 per channel and token; compressed-tensors FP8_DYNAMIC",
    (Format.FP8, "block-w-group-a"): "FP8 in 128x128 blocks, as DeepSeek-V3; compressed-tensors FP8_BLOCK",
    (Format.INT8, "tensor-w-tensor-a"): "INT8 per tensor",
    (Format.INT8, "tensor-w-token-a"): "INT8, weights per tensor, activations per token",
    (Format.INT8, "channel-w-tensor-a"): "INT8, weights per channel, activations per tensor",
    (Format.INT8, "channel-w-token-a"): "INT8 per channel and token; compressed-tensors W8A8",
}
"""What vLLM, compressed-tensors and DeepSeek call a format and a scheme; docs/schemes.md has all their names."""


@dataclass(frozen=True)
class Scheme:
    """How operands are quantized; `scaling` None is the 16-bit baseline."""

    format: Format
    scaling: Scaling | None
    azp: Azp

    @classmethod
    def of(cls, problem: Problem) -> Scheme:
        return cls(problem.format, problem.scaling, problem.azp)

    @property
    def text(self) -> str:
        azp = "" if self.azp is Azp.NONE else f" azp {self.azp.value}"
        return f"{self.format.value} {self.scaling.name}{azp}" if self.scaling else self.format.value

    @property
    def also_called(self) -> str:
        """The field's own names; empty for 16 bits, and for what has none."""
        name = ALSO_CALLED.get((self.format, self.scaling.name)) if self.scaling else None
        if name is None:
            return ""
        azp = "" if self.azp is Azp.NONE else f", zero point per {self.azp.value}"
        return f"{name}{azp}"

    @property
    def complexity(self) -> int:
        """How many parts it has beyond a product in 16 bits; the simplest scheme has the fewest.

        One for quantizing at all, one for a weight scale a channel, one for an activation scale a token, two each for
        blocks and groups (which change the sum itself too), one for a static zero point and two for one a token.
        """
        if self.scaling is None:
            return 0
        weight = {WeightScale.TENSOR: 0, WeightScale.CHANNEL: 1, WeightScale.BLOCK: 2}[self.scaling.weight]
        activation = {ActScale.TENSOR: 0, ActScale.TOKEN: 1, ActScale.GROUP: 2}[self.scaling.activation]
        return 1 + weight + activation + {Azp.NONE: 0, Azp.TENSOR: 1, Azp.TOKEN: 2}[self.azp]
