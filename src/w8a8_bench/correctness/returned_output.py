"""Launches that return D instead of writing `out`: what they returned is validated, and copied to where D is judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class WrongOutput(Exception):
    """A launch returned a tensor that can't be D. The text says what it is and what was expected."""


def take_output(outputs: Sequence[object], place: int, out: torch.Tensor) -> dict[str, object]:
    """Copy the D that the launch of one operand set returned into `out` [m,n], and say so for the record's `config`.

    `outputs` are what the launches of all operand sets returned, and `place` is that of the set which `out` belongs to.
    A launch that returned no tensor, or `out` itself, wrote `out`: nothing is copied and nothing is to be said. Raises
    WrongOutput if the tensor has another shape, dtype or device than `out`, or is the output of other sets too. Call it
    outside the timed region, once the launches have ended.
    """
    returned = outputs[place]
    if not isinstance(returned, torch.Tensor):
        return {}
    if returned.untyped_storage().data_ptr() == out.untyped_storage().data_ptr():
        return {}
    got, expected = described(returned), described(out)
    if got != expected:
        raise WrongOutput(f"returned {got}: expected {expected}")
    if sum(isinstance(other, torch.Tensor) and other.data_ptr() == returned.data_ptr() for other in outputs) > 1:
        raise WrongOutput("returned the same memory for several operand sets: return a new tensor from every launch")
    out.copy_(returned.detach())
    return {"output": "returned"}


def described(tensor: torch.Tensor) -> str:
    """`float32 [16,1] on cuda:0`."""
    sizes = ",".join(map(str, tensor.shape))
    return f"{str(tensor.dtype).removeprefix('torch.')} [{sizes}] on {tensor.device}"
