"""What is computed: shapes, formats, scaling schemes, problems, kernel names, operands. Nouns: no torch, no numpy."""

from w8a8_bench.problem.problem import (
    BLOCK,
    BLOCKWISE,
    MAX_ELEMENTS,
    PER_TENSOR,
    SCHEMES,
    Activations,
    ActScale,
    Azp,
    GemmShape,
    Problem,
    Scaling,
    WeightScale,
    ceil_div,
)

__all__ = [
    "BLOCK",
    "BLOCKWISE",
    "MAX_ELEMENTS",
    "PER_TENSOR",
    "SCHEMES",
    "ActScale",
    "Activations",
    "Azp",
    "GemmShape",
    "Problem",
    "Scaling",
    "WeightScale",
    "ceil_div",
]
