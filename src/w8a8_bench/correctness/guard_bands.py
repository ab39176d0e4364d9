"""Guard bands around an output, which show that a kernel wrote outside it."""

from __future__ import annotations

import weakref

import torch

from w8a8_bench.problem.memory import guard_elements

POISON = 0x7FA5
"""A NaN in both bf16 and fp16, but not the NaN that arithmetic or a fill gives."""

ALIGNMENT_BYTES = 1024
"""Of the first element of a guarded output: more than TMA or any vector store asks for."""


_GUARDED: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()


def make_guarded(m: int, n: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An [m,n] contiguous output of 16 bits an element inside a larger buffer, all of it poisoned."""
    before, after = guard_elements(n=n)
    slack = ALIGNMENT_BYTES // 2
    buffer = torch.full((before + slack + m * n + after,), POISON, dtype=torch.int16, device=device)
    start = before + (-(buffer.data_ptr() + 2 * before) % ALIGNMENT_BYTES) // 2
    out = buffer[start : start + m * n].view(dtype).view(m, n)
    _GUARDED[id(out)] = out
    return out


def is_guarded(out: torch.Tensor) -> bool:
    """Whether `out` is a tensor that `make_guarded` returned (not a view of one)."""
    return _GUARDED.get(id(out)) is out


def guard_damage(out: torch.Tensor) -> str | None:
    """What was written outside a guarded output, bit by bit; None if nothing was, or if `out` has no guards."""
    if not is_guarded(out):
        return None
    total = out.untyped_storage().nbytes() // 2
    buffer = out.view(torch.int16).as_strided((total,), (1,), 0)
    start = out.storage_offset()
    end = start + out.numel()
    before, after = buffer[:start] != POISON, buffer[end:] != POISON
    if not (before.any() | after.any()):  # fetched once; a difference takes two fetches more
        return None
    before, after = before.nonzero(), after.nonzero()
    damage = []
    if len(before):
        damage.append(f"{len(before)} elements before its start (nearest: {start - int(before[-1])} before)")
    if len(after):
        damage.append(f"{len(after)} elements past its end (nearest: {int(after[0]) + 1} past)")
    return f"wrote outside the output: {' and '.join(damage)}"
