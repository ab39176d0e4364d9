"""How the warps of a block agree: mbarriers and stages; and which tiles the block walks."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Uint32, const_expr

from w8a8_bench.kernels.cutlass.geometry import WARP, Geometry
from w8a8_bench.kernels.cutlass.sm90 import ptx
from w8a8_bench.kernels.cutlass.sm90.tile_scheduler import tile_at, tile_begin


@dataclass(frozen=True)
class Barriers:
    """The mbarriers of a block in shared memory; the kernel's page lists what each says."""

    base: cute.Pointer
    geometry: Geometry

    def full(self, stage):
        return self.base + stage

    def empty(self, stage):
        return self.base + self.geometry.config.stages + stage

    def turn(self, group):
        return self.base + 2 * self.geometry.config.stages + group

    def received(self, group):
        return self.base + 2 * self.geometry.config.stages + self.geometry.warpgroups + group

    def drained(self, group):
        return self.base + 2 * self.geometry.config.stages + 2 * self.geometry.warpgroups + group

    def init(self):
        """Set the arrival counts. By one thread."""
        g = self.geometry
        sharing = g.cluster_rows + g.cluster_columns - 1
        for stage in range(g.config.stages):
            cute.arch.mbarrier_init(self.full(stage), 1 + (WARP if g.variant.blockwise else 0))
            cute.arch.mbarrier_init(self.empty(stage), 4 * g.warpgroups_of_tile * sharing)
        for group in range(g.warpgroups):
            if g.is_pingpong:
                cute.arch.mbarrier_init(self.turn(group), 4)
            if g.config.split_k > 1:
                cute.arch.mbarrier_init(self.received(group), 1)
                cute.arch.mbarrier_init(self.drained(group), g.owners)

    @cute.jit
    def sharer(self, rank):
        """Rank of the block that this lane tells of stages that its warp has left, or -1 for a lane that tells none.

        Every block whose loads write this block's stages is told by one lane.
        """
        g = self.geometry
        sharing = g.cluster_rows * g.cluster_columns
        lane = cute.arch.lane_idx()
        own = rank % sharing
        told = Int32(-1)
        if lane < sharing:
            if const_expr(g.cluster_rows == 1 or g.cluster_columns == 1):
                told = rank - own + lane
            else:
                same_row = lane % g.cluster_rows == own % g.cluster_rows
                if same_row or lane // g.cluster_rows == own // g.cluster_rows:
                    told = rank - own + lane
        return ptx.keep(told)

    @cute.jit
    def leave(self, stage, sharer):
        """One arrival of this warp at each block whose loads write this block's stage."""
        if sharer >= 0:
            if const_expr(self.geometry.cluster_rows * self.geometry.cluster_columns == 1):
                cute.arch.mbarrier_arrive(self.empty(stage))
            else:
                cute.arch.mbarrier_arrive(self.empty(stage), sharer)


@dataclass(frozen=True)
class Walk:
    """The tiles of a block: the walk goes by clusters of tiles, of which each block of the cluster takes its own."""

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
    def at(self, index):
        """First token and first feature of a tile. A blockwise tile's features lie in blocks as they come."""
        g, config = self.geometry, self.geometry.config
        along_m, along_n = Int32(0), index
        if self.tiles_m > 1:  # few tokens are in a hurry, and a division takes long
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
        return token, feature


@cute.jit
def next_stage(stage, phase, stages):
    """The stage after `stage`, and the parity of its phase."""
    last = stage == stages - 1
    return (Int32(0) if last else stage + 1), (phase ^ 1 if last else phase)


@cute.jit
def skip_stages(stage, phase, count, stages):
    """The stage `count` after `stage`, and the parity of its phase."""
    past = stage + count
    return past % stages, phase ^ (past // stages % 2)
