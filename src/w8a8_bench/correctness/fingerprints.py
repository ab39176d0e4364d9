"""Fingerprints of inputs, which show that a kernel wrote to what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from w8a8_bench.problem.memory import FINGERPRINT_CHUNK
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
        for name, tensor in _inputs(operands):
            if _address(tensor) not in self._seen:
                self._seen[_address(tensor)] = _Seen(name, _bytes(tensor), _fingerprint(tensor))

    def changed(self, among: Operands | None = None) -> list[str]:
        """Names of inputs that were written to since they were seen: all, or those whose memory `among` shares."""
        seen = self._seen if among is None else [_address(tensor) for _, tensor in _inputs(among)]
        known = [self._seen[address] for address in seen if address in self._seen]
        return list(dict.fromkeys(one.name for one in known if _fingerprint(one.memory) != one.fingerprint))

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


def _fingerprint(tensor: torch.Tensor) -> int:
    storage = _bytes(tensor)
    whole = storage.numel() // 8 * 8
    words = storage[:whole].view(torch.int64)
    odd = 2 * torch.arange(min(FINGERPRINT_CHUNK, len(words)), device=tensor.device) + 1
    places = odd * 0x9E3779B97F4A7C1
    rest = storage.new_zeros(8)
    rest[: storage.numel() - whole] = storage[whole:]
    total = rest.view(torch.int64).sum()
    for number, part in enumerate(words.split(FINGERPRINT_CHUNK)):
        total = total + (part * places[: len(part)]).sum() * (2 * number + 1)
    return int(total)
