"""What was fitted to measured times: the rates of the model, and the configurations that it chooses from.

`scripts/fit_cutlass.py` writes the file from times on an H200, `heuristic` predicts with it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from w8a8_bench.kernels.cutlass import tuned
from w8a8_bench.kernels.cutlass.geometry import Schedule, TileConfig
from w8a8_bench.kernels.cutlass.variant import Variant

FILE = "fitted_h200.json"
MEMORY_BANDWIDTH = 4.8e12
"""Nominal bytes a second of the memory of the GPU that was measured. `Rates.memory` goes with it."""


FEW = 64
"""Tokens up to which rates and configurations are those of few tokens."""


class Rates(NamedTuple):
    """Of a family of kernels. A clock is one of `heuristic.CLOCK_HZ`.

    operations    multiply-adds counted as two, a clock of a multiprocessor's tensor cores
    shared        bytes a clock of shared memory, read by the tensor cores or written by TMA
    l2, l2_total  bytes a clock from the L2, of one multiprocessor and of all together
    memory        bytes a second from memory
    latency       clocks from a load to its data: a stage can't be multiplied earlier
    latency_s     seconds of it with memory under load: what is in flight over it bounds the rate from memory
    fill          clocks until a block's first tile is in flight, and its last accumulators are stored
    launch_s      seconds of what is neither memory's nor the multiprocessors'
    exposed       share of the faster of memory and multiprocessors that the slower one does not hide
    shadow        share of what a step does beside its longest part that the longest does not hide
    exchange      clocks of pushing partial accumulators to their owners and adding them
    power         by how much computing takes longer for e times the operations: the clock falls under load
    cooperative, pingpong, staggered, overlapped
                  clocks of a tile's end with 128 accumulators a thread, by schedule
    """

    operations: float
    shared: float
    l2: float
    l2_total: float
    memory: float
    latency: float
    latency_s: float
    fill: float
    launch_s: float
    exposed: float
    shadow: float
    exchange: float
    power: float
    cooperative: float
    pingpong: float
    staggered: float
    overlapped: float


class Tile(NamedTuple):
    """A configuration, with stages for the variant that was measured; how many of its blocks a multiprocessor holds;
    and its times over those that the rates alone predict."""

    config: TileConfig
    blocks_of_sm: int
    factor: float


class Fitted(NamedTuple):
    rates: Rates
    tiles: tuple[Tile, ...]


def of(variant: Variant, *, few: bool) -> Fitted:
    """What was fitted to the family of a variant, for up to `FEW` tokens or for more."""
    return _families()[tuned.family(variant) + ("_few" if few else "")]


@cache
def _families() -> dict[str, Fitted]:
    data = json.loads(Path(__file__).with_name(FILE).read_text(encoding="utf-8"))
    return {
        name: Fitted(Rates(**found["rates"]), tuple(map(_tile, found["tiles"])))
        for name, found in data["families"].items()
    }


def _tile(row: dict[str, Any]) -> Tile:
    tile_m, tile_n, tile_k = row["tile"]
    config = TileConfig(
        tile_m=tile_m,
        tile_n=tile_n,
        tile_k=tile_k,
        swap=row["swap"],
        cluster=tuple(row["cluster"]),
        split_k=row["split_k"],
        stages=row["stages"],
        schedule=Schedule(row["schedule"]),
    )
    return Tile(config, row["blocks_of_sm"], row["factor"])


def to_json(tile: Tile) -> dict[str, Any]:
    fields = tuned.to_json(tile.config)
    del fields["raster"]
    return {**fields, "blocks_of_sm": tile.blocks_of_sm, "factor": round(tile.factor, 4)}
