"""`quick_bench`, which `make bench` runs: what a newcomer sees first, chosen by whether there is a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from w8a8_bench.problem import PER_TENSOR, GemmShape, Scaling
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.shapes import models

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
TOKENS = (1, 16, 128, 2048, 8192)
"""On a GPU: both sides of memory-bound and compute-bound."""

CPU_SQUARES = (512, 1024)
CPU_LAYER, CPU_TOKENS = "o_proj", 16

DEPLOYED = Scaling.parse("channel-w-token-a")
"""Weight scales per channel and activation scales per token: what 8-bit checkpoints are served with."""

NO_FP8 = "fp8, which this CPU would only emulate (--dtype fp8 does)"


SCHEMES = (PER_TENSOR, DEPLOYED)
"""Unless options say otherwise."""


def quick(*, cuda: bool) -> tuple[tuple[Format, ...], tuple[LabelledShape, ...]]:
    """Formats and shapes, unless options say otherwise.

    On a GPU all layers of an 8B model in both formats; on a CPU two squares and one layer in INT8.
    """
    if cuda:
        return W8A8_FORMATS, models.model_shapes([MODEL], [1], TOKENS)
    squares = [LabelledShape(GemmShape(m=size, n=size, k=size)) for size in CPU_SQUARES]
    layers = models.model_shapes([MODEL], [1], [CPU_TOKENS])
    return (Format.INT8,), (*squares, *(one for one in layers if one.labels["layer"] == CPU_LAYER))


def plain(kernels: Sequence[str]) -> tuple[str, ...]:
    """The bf16 baseline, and of each library the kernels without bias or zero point that write bf16.

    Of two that differ in how they accumulate, the fast one, which is what servers run.
    """
    names = [KernelName.parse(kernel) for kernel in kernels]
    fast = {(name.provider, name.format) for name in names if name.variant == "fast_accum"}
    return tuple(
        name.text
        for name in names
        if name.out is Format.BF16
        and (name.variant == "fast_accum" or (name.variant == "" and (name.provider, name.format) not in fast))
    )
