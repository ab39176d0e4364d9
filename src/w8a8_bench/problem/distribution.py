"""What the timed operands hold. The power and the clock of a large GEMM depend on it. The check has its own data."""

from __future__ import annotations

from enum import Enum


class Distribution(str, Enum):
    """A distribution of source activations and weights, before quantization."""

    NORMAL = "normal"
    """N(0, 1): after quantization most of the 8-bit range is used, as in a trained network."""

    UNIFORM = "uniform"
    """U(-1, 1): every 8-bit code about equally often, so more bits toggle than with any other choice."""

    OUTLIERS = "outliers"
    """N(0, 1), with one input channel in 256 (at least one) of the activations times 20: coarse per-tensor scales."""

    ZEROS = "zeros"
    """All zero: the least power and the highest clock. For comparison only; no kernel is checked on it."""

    UNIT = "unit"
    """round(5 * N(0, 1)) with every scale 1, as in vLLM's original benchmark; zero points are small integers."""

    @classmethod
    def parse(cls, token: str) -> Distribution:
        """The data called `token`; raises ValueError with the choices."""
        try:
            return cls(token)
        except ValueError:
            raise ValueError(f"data {token!r}: expected one of {', '.join(DATA)}") from None


DATA = tuple(data.value for data in Distribution)
