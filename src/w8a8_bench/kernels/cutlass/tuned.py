"""Choices that were measured, by device: what `scripts/tune_cutlass.py` writes and `config.choose` reads first."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from w8a8_bench.kernels.cutlass.geometry import Schedule, TileConfig, Variant
from w8a8_bench.problem import GemmShape

TABLES = {132: "tuned_h200.json"}
"""The file of the device with so many multiprocessors."""


def family(variant: Variant) -> str:
    """Variants that share choices: int8 is multiplied as fast as fp8, and all else changes the end of a tile only."""
    return "blockwise" if variant.blockwise else "scaled_mm"


def lookup(variant: Variant, shape: GemmShape, sm_count: int) -> TileConfig | None:
    """The choice measured for this n and k at the next larger m; None where there is none, or the heuristic's."""
    for up_to_m, config in _table(sm_count).get((family(variant), shape.n, shape.k), ()):
        if shape.m <= up_to_m:
            return config
    return None


def choices(sm_count: int) -> list[tuple[str, TileConfig]]:
    """Every configuration in the table of a device, with its family."""
    return [(key[0], config) for key, by_m in _table(sm_count).items() for _, config in by_m if config is not None]


@cache
def _table(sm_count: int) -> dict[tuple[str, int, int], tuple[tuple[int, TileConfig | None], ...]]:
    name = TABLES.get(sm_count)
    if name is None:
        return {}
    rows = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))["choices"]
    return {
        (row["family"], row["n"], row["k"]): tuple((m, config and from_json(config)) for m, config in row["by_m"])
        for row in rows
    }


def to_json(config: TileConfig) -> dict[str, object]:
    return {
        "tile": [config.tile_m, config.tile_n, config.tile_k],
        "swap": config.swap,
        "cluster": list(config.cluster),
        "split_k": config.split_k,
        "stages": config.stages,
        "schedule": config.schedule.value,
        "raster": config.raster,
    }


def from_json(data: dict[str, object]) -> TileConfig:
    """Raises KeyError, TypeError or ValueError where the table is damaged."""
    tile, cluster = data["tile"], data["cluster"]
    assert isinstance(tile, list) and isinstance(cluster, list)
    return TileConfig(
        tile_m=tile[0],
        tile_n=tile[1],
        tile_k=tile[2],
        swap=bool(data["swap"]),
        cluster=(cluster[0], cluster[1]),
        split_k=int(str(data["split_k"])),
        stages=int(str(data["stages"])),
        schedule=Schedule(data["schedule"]),
        raster=int(str(data["raster"])),
    )
