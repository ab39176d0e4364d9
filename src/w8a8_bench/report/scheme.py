"""What is compared when schemes are: format, scales and zero point, whatever the kernel."""

from __future__ import annotations

from dataclasses import dataclass

from w8a8_bench.problem import ActScale, Azp, Problem, Scaling, WeightScale
from w8a8_bench.problem.formats import Format


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
