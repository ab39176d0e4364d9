"""Rotation through so many operand sets that each launch finds its own in DRAM, and the plan of how many.

Together the sets are `memory.L2_TIMES` as large as the L2. If even the most sets are smaller than that, or if memory
has no room for them, the L2 is scrubbed before each replay, outside what is timed, and a replay touches each set once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch

from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launch, Launches
from w8a8_bench.problem import Activations, ceil_div
from w8a8_bench.problem.memory import MAX_SETS, MIN_LAUNCHES, MOST_QUANTIZATIONS, rotation_sets
from w8a8_bench.problem.operands import Operands
from w8a8_bench.timing.measures import part
from w8a8_bench.timing.method import Bind, parts

ALIGNMENT = 1024
"""Bytes between starts of tensors in the arena: no two share a line, and TMA and vector loads find theirs aligned."""

SHORTEST_S = 1e-7
"""Shortest launch that a replay is planned for. An empty kernel takes 0.8 us (H200). A launch that returns an old
answer enqueues nothing and takes no time; the check after timing finds it."""


RESERVED_BYTES, RESERVED_SHARE = 2**32, 1 / 16
"""What a process reserves for rotations, and the most of a GPU's memory that is available."""

PAGE = 2**21
"""Bytes of a page of device memory: what is reserved is given out in whole ones."""


class NotCold(ValueError):
    """A rotation that would leave operands in the L2."""


@dataclass(frozen=True)
class RotationPlan:
    """`sets` of `set_bytes` each; `scrub`: they fit the L2, which is emptied before each replay."""

    sets: int
    set_bytes: int
    scrub: bool

    def launches(self, seconds: float, replay_s: float) -> int:
        """Launches in a replay of about `replay_s`: whole rotations; with a scrub no set twice."""
        seconds = max(seconds, SHORTEST_S)
        if self.scrub:
            return min(self.sets, max(MIN_LAUNCHES, round(replay_s / seconds)))
        rotations = max(math.ceil(MIN_LAUNCHES / self.sets), round(replay_s / (self.sets * seconds)))
        return self.sets * rotations


def plan(set_bytes: int, l2_bytes: int | None, most: int = MAX_SETS) -> RotationPlan:
    """How many sets, `most` at most, make every launch cold. Raises NotCold if the size of the L2 is unknown."""
    if not l2_bytes:
        raise NotCold("the size of this GPU's L2 is unknown, so that no rotation is known to be cold")
    sets, scrub = rotation_sets(set_bytes, l2_bytes, most)
    return RotationPlan(sets, set_bytes, scrub)


def plan_of(operands: Operands, l2_bytes: int | None, most: int = MAX_SETS) -> RotationPlan:
    """The plan of a launch on whole sets, and of its GEMM alone, which may read codes of A instead of bf16."""
    whole = set_bytes(operands)
    read_as_codes = operands.a.numel() if operands.problem.activations is not Activations.PREQUANTIZED else 0
    return replace(plan(whole - read_as_codes, l2_bytes, most), set_bytes=whole)


def plan_of_quantization(operands: Operands, l2_bytes: int | None, most: int = MAX_SETS) -> RotationPlan:
    """The plan of quantization alone, which touches only A: a hundredth of a set if tokens are few."""
    return plan(_span(operands.a), l2_bytes, min(most, MOST_QUANTIZATIONS))


def set_bytes(operands: Operands) -> int:
    """Bytes of one set: inputs and output."""
    return sum(_span(tensor) for tensor in _tensors(operands).values())


class ReservedMemory:
    """Memory for the rotations of one comparison after the other, which a process takes before anything else.

    Where operands lie moves a time: kernels that stream weights took 16.0 or 16.4 us (m=16 n=4096 k=14336, H200) as the
    process had allocated other memory before, all of one comparison alike. In what is reserved, a shape lies where it
    lies in any other process that measures the same cells, whatever was measured before it.
    """

    def __init__(self, device: Device) -> None:
        self._device = torch.device(device.torch_name)
        size = min(RESERVED_BYTES, int(RESERVED_SHARE * device.available_bytes))
        self._memory = torch.empty(size, dtype=torch.uint8, device=self._device)
        self._taken = 0

    def take(self, size: int) -> torch.Tensor | None:
        """uint8 [size] that nobody has, a storage of its own; None if there is no room.

        `InputWatch` watches whole storages: in one storage with the inputs, an output would be an input written to.
        """
        begin = self._taken
        if begin + size > len(self._memory):
            return None
        self._taken = ceil_div(begin + size, PAGE) * PAGE
        storage = self._memory.untyped_storage()[begin : begin + size]
        return torch.empty(0, dtype=torch.uint8, device=self._device).set_(storage)

    def give_back(self) -> None:
        """Have what was taken be taken again. Nothing may use it any more."""
        self._taken = 0


class Arena:
    """Copies of operand tensors in device memory, shared by the cells of a comparison.

    Cells run one after another, so cells with the same input, or with outputs of the same kind, share copies.
    """

    def __init__(self, reserved: ReservedMemory | None = None) -> None:
        self._reserved = reserved
        self._copies: dict[Hashable, torch.Tensor] = {}
        self._sources: list[torch.Tensor] = []  # held, since copies are known by their source's address

    def sets(self, operands: Operands, count: int, names: Collection[str] | None = None) -> list[Operands]:
        """`count` equal operand sets, each with memory of its own: all of it, or that of the tensors `names`."""
        tensors = {name: tensor for name, tensor in _tensors(operands).items() if names is None or name in names}
        copies = {name: self._rows(name, tensor, count) for name, tensor in tensors.items()}
        made = []
        for index in range(count):
            own: dict[str, Any] = {name: _at(rows, index, getattr(operands, name)) for name, rows in copies.items()}
            made.append(replace(operands, **own))
        return made

    def memory(self, size: int, device: torch.device) -> torch.Tensor:
        """uint8 [size] for copies."""
        memory = self._reserved.take(size) if self._reserved else None
        return torch.empty(size, dtype=torch.uint8, device=device) if memory is None else memory

    def _rows(self, name: str, tensor: torch.Tensor, count: int) -> torch.Tensor:
        """uint8 [>= count, span], each row a copy of the tensor's memory; of an output, room for it."""
        like = (tensor.shape, tensor.dtype) if name == "out" else (tensor.data_ptr(), tensor.shape, tensor.stride())
        rows = self._copies.get((name == "out", like))
        if rows is None or len(rows) < count:
            rows = self.memory(count * _span(tensor), tensor.device).view(count, -1)
            if name != "out":
                flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
                rows[:, : flat.numel()] = flat
                self._sources.append(tensor)
            self._copies[(name == "out", like)] = rows
        return rows


class LaunchRow(NamedTuple):
    """Launches that are timed one after another, and the plan of the operands that they go through."""

    launches: Sequence[Launch]
    plan: RotationPlan


def cold_rows(
    measure: str,
    bind: Bind,
    operands: Operands,
    plan: RotationPlan,
    arena: Arena,
    l2_bytes: int | None,
    most: int = MAX_SETS,
) -> tuple[list[Operands], list[Launches], dict[str, LaunchRow]]:
    """The sets of a plan, bound and launched once, and rows by measure: the whole, and its parts if there are any.

    Quantization alone goes through sets of its own: in the sets of the whole it would find A in the L2.
    """
    sets = arena.sets(operands, plan.sets)
    bound = [bind(one) for one in sets]
    for launches in bound:
        launches.total()  # what a first call sets up must not be captured
    rows = {name: LaunchRow(launches, plan) for name, launches in parts(measure, bound).items()}
    quantization = part(measure, "quant")
    if quantization in rows:
        of_a = plan_of_quantization(operands, l2_bytes, most)
        alone = parts(measure, [bind(one) for one in arena.sets(operands, of_a.sets, names=("a",))])[quantization]
        for launch in alone:
            launch()
        rows[quantization] = LaunchRow(alone, of_a)
    return sets, bound, rows


def _tensors(operands: Operands) -> dict[str, torch.Tensor]:
    """The tensors of a set by field. All of them are dense, in whatever order of dimensions."""
    present = {}
    for field in fields(operands):
        value = getattr(operands, field.name)
        if isinstance(value, torch.Tensor):
            present[field.name] = value
    return present


def _span(tensor: torch.Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT


def _at(rows: torch.Tensor, index: int, like: torch.Tensor) -> torch.Tensor:
    flat = rows[index, : like.numel() * like.element_size()].view(like.dtype)
    return flat.as_strided(like.shape, like.stride(), flat.storage_offset())
