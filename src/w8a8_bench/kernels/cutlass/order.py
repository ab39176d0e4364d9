"""The order in which a persistent kernel walks the tiles, and how k is split: whole-number arithmetic.

Python's integers and the CuTe DSL's go through the same lines, so that tests see what the device computes.
"""

from __future__ import annotations

from typing import Any


def tile_at(index: Any, tiles_m: Any, tiles_n: Any, raster: int, least: Any = min) -> tuple[Any, Any]:
    """Coordinates (along m, along n) of the tile that is `index`-th in the walk.

    Bands of `raster` tiles along m; within a band m runs fastest, so that the tiles in flight at one time share both
    operands in the L2. `least` is the minimum of two numbers.
    """
    band = index // (raster * tiles_n)
    first = band * raster
    width = least(tiles_m - first, raster)
    rest = index - first * tiles_n
    return first + rest % width, rest // width


def k_range(rank: Any, tiles_k: Any, split: int) -> tuple[Any, Any]:
    """First and past-the-last tile along k of the block of `rank` in a split; each has one where tiles_k >= split."""
    return rank * tiles_k // split, (rank + 1) * tiles_k // split
