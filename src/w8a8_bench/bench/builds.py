"""What the kernels of a sweep must compile, and the compiling: the side of a process that owns a device.

A build is one `prepare`, `bind` and launch on operands of zeros. The library keeps what it compiled on disk, and a note
in the cache's part `compiled` says that it does.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from w8a8_bench import cache
from w8a8_bench.bench.cell_run import CellRun, InHand, stop_if_it_raises
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import Kernel, Step
from w8a8_bench.problem.comparison import Cell
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import registry
from w8a8_bench.providers.contract import build_key_of, build_s_of, launches_of, support_of

Kernels = Callable[[str], Kernel]


@dataclass(frozen=True)
class Build:
    """What a cell needs: the place of the cell, the name of the build, about how many seconds it takes, and whether a
    library's cache holds it."""

    cell: int
    name: str
    seconds: float
    cached: bool


def builds_of(
    cells: Sequence[Cell], device: Device, in_hand: InHand, kernels: Kernels = registry.get
) -> Iterator[Build]:
    """What each of `cells` needs. If a kernel raises, its cell needs nothing: the comparison will say what is wrong."""
    for place, cell in enumerate(cells):
        run = CellRun(cell, place)
        found: list[Build] = []
        in_hand(place, Step.ASK)
        stop_if_it_raises(run, partial(_find_build, run, device, kernels, found))
        in_hand(None, None)
        yield from found


def _find_build(run: CellRun, device: Device, kernels: Kernels, found: list[Build]) -> None:
    kernel = kernels(run.cell.kernel)
    if support_of(kernel, run.cell.problem, device) and (name := name_of(run.cell, kernel, device)):
        found.append(Build(run.index, name, build_s_of(kernel), is_noted(name)))


def name_of(cell: Cell, kernel: Kernel, device: Device) -> str | None:
    """What a supported cell needs: equal for equal code of one version on one kind of GPU. None if nothing."""
    key = build_key_of(kernel, cell.problem, device)
    if key is None:
        return None
    gpu = (device.name, dotted(device.capability) if device.capability else "", device.sm_count)
    return cache.digest(*_library(KernelName.parse(cell.kernel).provider), *gpu, key)


@functools.cache
def _library(provider: str) -> tuple[str, ...]:
    """What the compiled code of a provider depends on, whatever the problem, and where it is kept."""
    named = [one for one in registry.all_providers() if one.name == provider]
    if not named:  # a kernel of the caller's own
        return (provider,)
    found = named[0]
    return provider, str(found.probe()), found.source(), torch.__version__, *cache.library_directories()


def note(name: str, cell: Cell) -> None:
    """Note that a library's cache holds a build."""
    if not is_noted(name):
        cache.write(_note(name), {"kernel": cell.kernel, "shape": str(cell.problem.shape)})


def is_noted(name: str) -> bool:
    """Whether a note can be read; one in a directory that nobody may read is none."""
    return os.path.exists(_note(name))


def _note(name: str) -> Path:
    return cache.root() / "compiled" / f"{name}.json"


def build(cell: Cell, name: str, device: Device, in_hand: InHand, kernels: Kernels = registry.get) -> CellRun:
    """Compile what `cell` needs, and note it. A fault of the kernel's is the status of what is returned."""
    run = CellRun(cell, 0)
    in_hand(0, Step.BUILD)
    stop_if_it_raises(run, partial(_build, cell, device, kernels))
    in_hand(None, None)
    if run.alive:
        note(name, cell)
    return run


def _build(cell: Cell, device: Device, kernels: Kernels) -> None:
    problem = cell.problem
    factory = OperandFactory(problem.shape, device.torch_name, data=Distribution.ZEROS.value, seed=0)
    prepared = kernels(cell.kernel).prepare(problem, device)
    launches_of(prepared, factory.make(problem).given()).total()
    if device.is_cuda:
        torch.cuda.synchronize(device.index)
