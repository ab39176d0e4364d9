"""Which tile of D a block of threads computes next.

A scheduler gives the number of tiles and, for a tile's index, its `WorkTile`. Its state never changes: a block keeps
the index, since a loop of the CuTe DSL carries no state that a method changes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Uint32, const_expr

from w8a8_bench.kernels.cutlass.geometry import Geometry
from w8a8_bench.kernels.cutlass.sm90.tile_order import tile_at, tile_begin


class WorkTile(NamedTuple):
    """A tile's first token, below 0 if the tile is larger than D, and its first feature; the group that it belongs to,
    and how many rows the group has from the first token on."""

    token: Int32
    feature: Int32
    group: int
    valid_rows: Int32


@dataclass(frozen=True)
class DenseTileScheduler:
    """All of one D: group 0. Tiles are numbered by clusters, of which each block computes its own tile."""

    geometry: Geometry
    m: Int32
    n: Int32
    tiles_m: Int32
    tiles_n: Int32
    row_rank: Int32
    column_rank: Int32

    @property
    def tiles(self):
        return self.tiles_m * self.tiles_n

    @cute.jit
    def tile(self, index):
        """A blockwise tile's features lie in blocks as they come; others are moved back inside D."""
        g, config = self.geometry, self.geometry.config
        along_m, along_n = Int32(0), index
        if self.tiles_m > 1:  # a division takes long, which shows if there are few tokens
            numbers = Uint32(index), Uint32(self.tiles_m), Uint32(self.tiles_n)  # the shorter division is unsigned
            unsigned_m, unsigned_n = tile_at(*numbers, config.raster, cutlass.min)
            along_m, along_n = Int32(unsigned_m), Int32(unsigned_n)
        rank_m, rank_n = self.row_rank, self.column_rank
        if const_expr(config.swap):
            rank_m, rank_n = self.column_rank, self.row_rank
        tile_m, tile_n = along_m * config.cluster[0] + rank_m, along_n * config.cluster[1] + rank_n
        token, feature = tile_begin(tile_m, config.tile_m, self.m, cutlass.min), tile_n * config.tile_n
        if const_expr(not g.variant.blockwise):
            feature = cutlass.max(tile_begin(tile_n, config.tile_n, self.n, cutlass.min), 0)
        return WorkTile(token, feature, 0, self.m - token)
