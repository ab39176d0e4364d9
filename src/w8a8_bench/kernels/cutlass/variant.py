"""What a kernel computes, whatever the tile configuration: architecture, formats, and the vectors of the epilogue."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from w8a8_bench.problem import Azp, Problem
from w8a8_bench.problem.formats import Format

SM90A = "sm_90a"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is compiled in besides the configuration. Scales per tensor, channel or token are one kernel: a single scale
    is read with stride 0. So are all m, n and k."""

    arch: str = SM90A
    format: Format
    out: Format
    bias: bool = False
    azp: Azp = Azp.NONE
    blockwise: bool = False

    @classmethod
    def of(cls, problem: Problem) -> Variant:
        blockwise = problem.scaling is not None and problem.scaling.is_blockwise
        return cls(format=problem.format, out=problem.out, bias=problem.bias, azp=problem.azp, blockwise=blockwise)

    @property
    def name(self) -> str:
        words = [self.format.value, self.out.value]
        words += ["blockwise"] if self.blockwise else []
        words += {Azp.NONE: [], Azp.TENSOR: ["azp"], Azp.TOKEN: ["azp_pt"]}[self.azp]
        words += ["bias"] if self.bias else []
        return "_".join(words)

    @property
    def vectors(self) -> tuple[EpilogueVector, ...]:
        """What the epilogue applies. Scales of blocks are matrices, which the mainloop applies."""
        return () if self.blockwise else tuple(vector for vector in VECTORS if vector.when(self))


class Per(Enum):
    """What has an element of a vector: each token (row of D) or each feature (column of D)."""

    TOKEN = "token"
    FEATURE = "feature"


class Element(Enum):
    FP32 = "fp32"
    INT32 = "int32"
    OUT = "out"
    """16 bits, in the format of D; only vectors per feature may have it."""


@dataclass(frozen=True)
class EpilogueVector:
    """A vector by which the epilogue makes D of the accumulators.

    `apply` takes a value and the vector's element. The value is the accumulator if elements are int32, else the
    accumulator converted to fp32. A vector without `apply` is the `factor` of another one. `may_be_single`: one element
    may stand for all.
    """

    name: str
    per: Per
    element: Element
    when: Callable[[Variant], bool]
    apply: Callable[[Any, Any], Any] | None = None
    factor: str | None = None
    may_be_single: bool = False

    @property
    def elements_of_word(self) -> int:
        return 2 if self.element is Element.OUT else 1


VECTORS = (
    EpilogueVector("scale_a", Per.TOKEN, Element.FP32, lambda v: True, operator.mul, may_be_single=True),
    EpilogueVector("scale_b", Per.FEATURE, Element.FP32, lambda v: True, operator.mul, may_be_single=True),
    EpilogueVector("bias", Per.FEATURE, Element.OUT, lambda v: v.bias, operator.add),
    EpilogueVector("azp_adj", Per.FEATURE, Element.INT32, lambda v: v.azp is not Azp.NONE, operator.sub, factor="azp"),
    EpilogueVector("azp", Per.TOKEN, Element.INT32, lambda v: v.azp is Azp.TOKEN),
)
"""In the order of the kernel's arguments; those that are applied to int32 come first, then the others, each in order.

In the kernel one more is a line here, and its name twice in `GemmKernel.__call__`, since the CuTe DSL takes no
`*vectors` and a tuple of tensors costs a call 4 us of CPU time. Shared memory, loads and application follow. Callers
pass it on: the functions in `api.py`, and `bind` in `providers/cutlass.py`.
"""
