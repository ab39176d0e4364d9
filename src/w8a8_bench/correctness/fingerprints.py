"""Fingerprints of inputs, which show that a kernel wrote to what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from w8a8_bench.problem.memory import FINGERPRINT_CHUNK, at_once
from w8a8_bench.problem.operands import Operands

INPUTS = ("a", "b", "scale_a", "scale_b", "azp", "azp_adj", "bias")


class InputsWritten(Exception):
    """A kernel wrote to its inputs. The text says when, and to which of them."""

    def __init__(self, when: str, names: Sequence[str]) -> None:
        super().__init__(f"wrote{when} to what it is to read: {', '.join(names)}")


class InputWatch:
    """Tells whether the inputs of a comparison, with every copy of a rotation, still hold what they were made with.

    It keeps a fingerprint of each input's memory. The fingerprint changes with any bit of the memory, since words are
    weighted by their place.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def see(self, operands: Operands) -> None:
        """Take the fingerprints of inputs that no launch has read yet. Memory that was seen before is skipped."""
        new: dict[int, tuple[str, torch.Tensor]] = {}
        for name, tensor in _inputs(operands):
            if _address(tensor) not in self._seen:
                new.setdefault(_address(tensor), (name, _bytes(tensor)))
        prints = _fingerprints([memory for _, memory in new.values()])
        for (address, (name, memory)), fingerprint in zip(new.items(), prints, strict=True):
            self._seen[address] = _Seen(name, memory, fingerprint)

    def changed(self, among: Operands | None = None) -> list[str]:
        """Names of inputs that were written to since they were seen: all, or those whose memory `among` shares."""
        seen = self._seen if among is None else [_address(tensor) for _, tensor in _inputs(among)]
        known = [self._seen[address] for address in seen if address in self._seen]
        prints = _fingerprints([one.memory for one in known])
        written = [one.name for one, now in zip(known, prints, strict=True) if now != one.fingerprint]
        return list(dict.fromkeys(written))

    def refuse_writes(self, when: str, operands: Operands) -> None:
        """Raise InputsWritten, which says `when`, if one of the inputs was written to since it was seen."""
        if written := self.changed(operands):
            raise InputsWritten(when, written)


class _Seen(NamedTuple):
    name: str
    memory: torch.Tensor
    fingerprint: int


def _inputs(operands: Operands) -> list[tuple[str, torch.Tensor]]:
    given = [(name, getattr(operands, name)) for name in INPUTS]
    return [(name, tensor) for name, tensor in given if tensor is not None]


def _address(tensor: torch.Tensor) -> int:
    """Address of the whole storage of the tensor, which copies of one operand in a rotation share."""
    return tensor.untyped_storage().data_ptr()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """All bytes of the tensor's storage, whatever the tensor's strides."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _fingerprints(memories: Sequence[torch.Tensor]) -> list[int]:
    """One of each uint8 [bytes], of one device. All are fetched at once, since every fetch waits for the device."""
    if not memories:
        return []
    device = memories[0].device
    chunk = at_once(FINGERPRINT_CHUNK, device.type, n_bytes=16)
    longest = max(memory.numel() for memory in memories) // 8
    places = (2 * torch.arange(min(chunk, longest), device=device) + 1) * 0x9E3779B97F4A7C1
    prints: list[int] = torch.stack([_fingerprint(memory, places, chunk) for memory in memories]).tolist()
    return prints


def _fingerprint(memory: torch.Tensor, places: torch.Tensor, chunk: int) -> torch.Tensor:
    """An int64 scalar on the device of the memory, of which `chunk` words are weighted by their `places` at a time."""
    whole = memory.numel() // 8 * 8
    words = memory[:whole].view(torch.int64)
    rest = memory.new_zeros(8)
    rest[: memory.numel() - whole] = memory[whole:]
    total = rest.view(torch.int64).sum()
    for number, part in enumerate(words.split(chunk)):
        total = total + (part * places[: len(part)]).sum() * (2 * number + 1)
    return total
