"""The tensors of one problem, as the operand factory makes them and `Prepared.bind` takes them.

    out = scale_a * scale_b * (a @ b) + bias                      without a zero point
    out = scale_a * scale_b * (a @ b - azp_adj) + bias            azp per tensor, which azp_adj has in it already
    out = scale_a * scale_b * (a @ b - azp * azp_adj) + bias      azp per token
    out = sum_j scale_a[:, j] * scale_b[j, n // 128] * (a @ b over the 128 of k from 128 * j)       blockwise

The zero point's correction is subtracted in int32, before anything is scaled; the sum is rounded to the out format
once, at the end. `correctness.oracle` says how far an answer may lie off.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from w8a8_bench.problem import Problem

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Operands:
    """One operand set. Layouts are the reference's; a kernel that wants others converts them in `bind`.

    a        [m,k] row-major, in the problem's format; bf16 if the kernel quantizes inside the timed region
    b        [k,n] column-major (the weight [n,k], transposed), in the problem's format
    scale_a  fp32: [1,1] per tensor, [m,1] per token, [m, ceil(k/128)] row-major per group; None for dynamic activations
    scale_b  fp32: [1,1] per tensor, [1,n] per channel, [ceil(k/128), ceil(n/128)] row-major per block
    azp      int32: [1,1] per tensor, [m,1] per token; None without a zero point and for dynamic activations
    azp_adj  int32 [n]: `azp * sum_k B[k,n]` per tensor, `sum_k B[k,n]` per token; None without a zero point
    bias     [n] in the out format, or None
    out      [m,n] row-major in the out format: what the launch writes
    """

    problem: Problem
    a: torch.Tensor
    b: torch.Tensor
    out: torch.Tensor
    scale_a: torch.Tensor | None = None
    scale_b: torch.Tensor | None = None
    azp: torch.Tensor | None = None
    azp_adj: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """scale_a and scale_b of a launch that is given both."""
        if self.scale_a is None or self.scale_b is None:
            raise ValueError("this kernel needs both scales")
        return self.scale_a, self.scale_b

    def given(self) -> Operands:
        """The same memory in tensors of their own: a kernel that reshapes one in place changes nobody else's."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "problem"}
        return replace(self, **{name: tensor.detach() for name, tensor in tensors.items() if tensor is not None})


def column_major(scale: torch.Tensor) -> torch.Tensor:
    """[rows, columns] with contiguous columns: those of scale_a along m, those of scale_b along k."""
    return scale.t().contiguous().t()
