"""Choices that were measured, by device: what `scripts/tune_cutlass.py` writes and `heuristic.choose` reads first."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from w8a8_bench.kernels.cutlass.geometry import Occupancy, Schedule, TileConfig
from w8a8_bench.kernels.cutlass.variant import SM90A, Variant
from w8a8_bench.problem import GemmShape

TABLES = {(SM90A, "NVIDIA H200", 132): "tuned_h200.json"}
"""The file of the devices of an architecture and a name with so many multiprocessors: a slice of a GPU has fewer."""


def family(variant: Variant) -> str:
    """Variants that share choices: int8 is multiplied as fast as fp8, and all else changes the end of a tile only."""
    return "blockwise" if variant.blockwise else "scaled_mm"


def lookup(variant: Variant, shape: GemmShape, gpu: Occupancy) -> TileConfig | None:
    """The choice measured for this n and k at the next larger m; None if there is none, or it is the heuristic's."""
    for up_to_m, config in _table(variant.arch, gpu.name, gpu.sm_count).get((family(variant), shape.n, shape.k), ()):
        if shape.m <= up_to_m:
            return config
    return None


def choices(arch: str, name: str, sm_count: int) -> list[tuple[str, TileConfig]]:
    """Every configuration in the table of a device, with its family."""
    table = _table(arch, name, sm_count)
    return [(key[0], config) for key, by_m in table.items() for _, config in by_m if config is not None]


@cache
def _table(
    arch: str, device: str, sm_count: int
) -> dict[tuple[str, int, int], tuple[tuple[int, TileConfig | None], ...]]:
    name = TABLES.get((arch, device, sm_count))
    if name is None:
        return {}
    table = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return {
        (row["family"], row["n"], row["k"]): tuple((m, config and from_json(config)) for m, config in row["by_m"])
        for row in table["choices"]
        if table["arch"] == arch
    }


def to_json(config: TileConfig) -> dict[str, Any]:
    fields = asdict(config)
    return {"tile": [fields.pop(f"tile_{axis}") for axis in "mnk"], **fields}


def from_json(data: dict[str, Any]) -> TileConfig:
    """Raises KeyError, TypeError or ValueError if the table is damaged."""
    fields = {**data, "cluster": tuple(data["cluster"]), "schedule": Schedule(data["schedule"])}
    tile_m, tile_n, tile_k = fields.pop("tile")
    return TileConfig(tile_m=tile_m, tile_n=tile_n, tile_k=tile_k, **fields)
