"""What a problem asks of the hardware: operations, and the least bytes moved."""

from __future__ import annotations

from w8a8_bench.problem import BLOCK, Activations, ActScale, Azp, Problem, WeightScale, ceil_div

WORD_BYTES = 4
"""Size of a scale (fp32), of a zero point and of its adjustment (int32)."""

UNQUANTIZED_BYTES = 2
"""Size of an element of A that is quantized inside the timed region: it starts in bf16."""


def flops(problem: Problem) -> int:
    """Multiply-adds count as two; scaling, bias and quantization are excluded."""
    shape = problem.shape
    return 2 * shape.m * shape.n * shape.k


def bytes_moved(problem: Problem) -> int:
    """Each input read once and the output written once: the least that a kernel moves, not what it does move.

    Scales and zero points that are computed inside the timed region are not inputs.
    """
    shape = problem.shape
    quantized_inside = problem.activations is not Activations.PREQUANTIZED
    a = shape.m * shape.k * (UNQUANTIZED_BYTES if quantized_inside else problem.format.n_bytes)
    b = shape.k * shape.n * problem.format.n_bytes
    out = shape.m * shape.n * problem.out.n_bytes
    bias = shape.n * problem.out.n_bytes if problem.bias else 0
    return a + b + out + bias + WORD_BYTES * (_scale_words(problem) + _azp_words(problem))


def _scale_words(problem: Problem) -> int:
    if problem.scaling is None:
        return 0
    shape = problem.shape
    k_blocks = ceil_div(shape.k, BLOCK)
    of_weights = {
        WeightScale.TENSOR: 1,
        WeightScale.CHANNEL: shape.n,
        WeightScale.BLOCK: k_blocks * ceil_div(shape.n, BLOCK),
    }
    of_activations = {ActScale.TENSOR: 1, ActScale.TOKEN: shape.m, ActScale.GROUP: shape.m * k_blocks}
    given = problem.activations is not Activations.DYNAMIC
    return of_weights[problem.scaling.weight] + (of_activations[problem.scaling.activation] if given else 0)


def _azp_words(problem: Problem) -> int:
    """Zero points, and `azp_adj[n]` beside them."""
    if problem.azp is Azp.NONE:
        return 0
    points = problem.shape.m if problem.azp is Azp.TOKEN else 1
    return problem.shape.n + (points if problem.activations is not Activations.DYNAMIC else 0)


def tflops(problem: Problem, seconds: float) -> float:
    """10^12 operations a second."""
    return flops(problem) / seconds / 1e12
