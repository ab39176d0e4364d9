"""The order in which tiles are computed, where they lie, and how k is split: whole-number arithmetic.

Python's integers and the CuTe DSL's go through the same lines, so that tests see what the device computes.
"""

from __future__ import annotations

from typing import Any


def tile_at(index: Any, tiles_m: Any, tiles_n: Any, raster: int, least: Any = min) -> tuple[Any, Any]:
    """Coordinates (along m, along n) of the tile that is computed `index`-th.

    Bands of `raster` tiles along m; within a band m runs fastest, so that the tiles in flight at one time share both
    operands in the L2. `least` is the minimum of two numbers.
    """
    band = index // (raster * tiles_n)
    first = band * raster
    width = least(tiles_m - first, raster)
    rest = index - first * tiles_n
    return first + rest % width, rest // width


def tile_begin(index: Any, tile: int, size: Any, least: Any = min) -> Any:
    """First row of the `index`-th tile: moved back if the tile would reach past `size`, below 0 if it is larger.

    Rows that two tiles compute are written twice, with the same values. TMA fills a row past the end with zeros four
    times as slowly as it loads one (8 clocks of an H200 for 128 bytes): a tile of 128 tokens that had 65 took 1.6 times
    as long as one that had 128.
    """
    return least(index * tile, size - tile)


def tile_row(begin: Any, row: Any, piece: int, most: Any = max) -> Any:
    """Row of the matrix that is row `row` of the tile at `begin`.

    A tile is made of pieces, each moved to rows that exist: of a tile that is larger than the matrix, the last piece
    ends with the matrix, the first begins with it, and those between lie on top of one another.
    """
    return most(begin + row // piece * piece, 0) + row % piece


def k_range(rank: Any, tiles_k: Any, split: int) -> tuple[Any, Any]:
    """First and past-the-last tile along k of the block of `rank` in a split; each has one if tiles_k >= split."""
    return rank * tiles_k // split, (rank + 1) * tiles_k // split
