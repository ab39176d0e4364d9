"""The mbarriers by which producer and consumer warps hand stages to each other, and the state of a pipeline.

A pipeline's state is a stage and the parity of its phase: functions return the next one, since a loop of the CuTe DSL
carries no state that a method changes.
"""

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Int32, const_expr

from w8a8_bench.kernels.cutlass.geometry import WARP, Geometry
from w8a8_bench.kernels.cutlass.sm90 import ptx


@dataclass(frozen=True)
class Barriers:
    """The mbarriers of a block in shared memory; `gemm` lists what each says and who arrives at it."""

    base: cute.Pointer
    geometry: Geometry

    def full(self, stage):
        return self.base + stage

    def empty(self, stage):
        return self.base + self.geometry.config.stages + stage

    def order(self, group):
        return self.base + 2 * self.geometry.config.stages + group

    def partials_full(self, group):
        return self.base + 2 * self.geometry.config.stages + self.geometry.warpgroups + group

    def partials_empty(self, group):
        return self.base + 2 * self.geometry.config.stages + 2 * self.geometry.warpgroups + group

    def init(self):
        """Set the arrival counts. By one thread."""
        g = self.geometry
        sharing = g.cluster_rows + g.cluster_columns - 1
        for stage in range(g.config.stages):
            cute.arch.mbarrier_init(self.full(stage), 1 + (WARP if g.variant.blockwise else 0))
            cute.arch.mbarrier_init(self.empty(stage), 4 * g.warpgroups_of_tile * sharing)
        for group in range(g.warpgroups):
            if g.is_pingpong or g.is_staggered:
                cute.arch.mbarrier_init(self.order(group), 4)
            if g.config.split_k > 1:
                cute.arch.mbarrier_init(self.partials_full(group), 1)
                cute.arch.mbarrier_init(self.partials_empty(group), g.owners)

    @cute.jit
    def release_rank(self, rank):
        """Rank of the block at whose empty barriers this lane arrives when its warp releases a stage; -1 if at none.

        Every block whose loads write this block's stages gets the arrival of one lane.
        """
        g = self.geometry
        sharing = g.cluster_rows * g.cluster_columns
        lane = cute.arch.lane_idx()
        own = rank % sharing
        target = Int32(-1)
        if lane < sharing:
            if const_expr(g.cluster_rows == 1 or g.cluster_columns == 1):
                target = rank - own + lane
            else:
                same_row = lane % g.cluster_rows == own % g.cluster_rows
                if same_row or lane // g.cluster_rows == own // g.cluster_rows:
                    target = rank - own + lane
        return ptx.keep(target)

    @cute.jit
    def release(self, stage, release_rank):
        """One arrival of this warp at each block whose loads write this block's stage."""
        if release_rank >= 0:
            if const_expr(self.geometry.cluster_rows * self.geometry.cluster_columns == 1):
                cute.arch.mbarrier_arrive(self.empty(stage))
            else:
                cute.arch.mbarrier_arrive(self.empty(stage), release_rank)


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
