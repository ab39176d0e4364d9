"""A consumer warpgroup's sums over k: all in the tensor core, or block by block with scales.

Both take a stage when its full barrier says so and leave it when the instructions that read it are done.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int8, Int32, const_expr
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_K, INSTRUCTION_ROWS, WARP, Geometry
from w8a8_bench.kernels.cutlass.sm90 import ptx
from w8a8_bench.kernels.cutlass.sm90.fragments import (
    accumulator_column,
    accumulator_index,
    accumulator_row,
    weight_block,
)
from w8a8_bench.kernels.cutlass.sm90.pipeline import Barriers, next_stage

BLOCKS_AT_ONCE = 8
"""Blocks of k in a turn of the loop over scaled products."""


def make_mma(geometry, element, accumulator):
    """One warpgroup's instruction, 64 x columns x 32, both operands in shared memory with k contiguous."""
    make = warpgroup.MmaI8Op if element is Int8 else warpgroup.MmaF8Op
    shape = (INSTRUCTION_ROWS, geometry.columns, INSTRUCTION_K)
    k_major = OperandMajorMode.K
    op = make(element, element, accumulator, shape, warpgroup.OperandSource.SMEM, k_major, k_major)
    return cute.make_tiled_mma(cute.make_mma_atom(op), (1, 1, 1))


@dataclass(frozen=True)
class Mainloop:
    """What a warpgroup multiplies: fragments of both operands, each with a mode for the stage."""

    geometry: Geometry
    element: type
    accumulator: type
    operand_x: cute.Tensor
    operand_y: cute.Tensor
    barriers: Barriers
    sharer: Int32
    """The block that this lane tells of stages that were left."""

    @classmethod
    def of(cls, geometry, element, accumulator, shared_x, shared_y, barriers, rank, group):
        mma = make_mma(geometry, element, accumulator)
        if const_expr(geometry.warpgroups_of_tile > 1):
            tile = (geometry.warpgroup_rows, geometry.config.tile_k, geometry.config.stages)
            shared_x = cute.local_tile(shared_x, tile, (group, 0, 0))
        # A descriptor of shared memory is the warpgroup's, so it is partitioned as for its first thread.
        first = mma.get_slice(0)
        operand_x = mma.make_fragment_A(first.partition_A(shared_x))
        operand_y = mma.make_fragment_B(first.partition_B(shared_y))
        return cls(geometry, element, accumulator, operand_x, operand_y, barriers, barriers.sharer(rank))

    def make_sums(self):
        """Registers for a warpgroup's share of a tile."""
        shape = (self.geometry.warpgroup_rows, self.geometry.columns)
        mma = make_mma(self.geometry, self.element, self.accumulator)
        return cute.make_rmem_tensor(mma.partition_shape_C(shape), self.accumulator)

    @cute.jit
    def sum(self, sums, stage, phase, steps):
        """`sums` = the products of `steps` stages; one stage's instructions are in flight while the next is awaited.

        Returns the stage and phase that follow.
        """
        g = self.geometry
        mma = make_mma(g, self.element, self.accumulator)
        cute.arch.mbarrier_wait(self.barriers.full(stage), phase)
        self._multiply(mma, sums, stage, False)
        last = stage
        stage, phase = next_stage(stage, phase, g.config.stages)
        for _ in cutlass.range(1, steps, unroll=1):
            cute.arch.mbarrier_wait(self.barriers.full(stage), phase)
            self._multiply(mma, sums, stage, True)
            warpgroup.wait_group(1)
            self.barriers.leave(last, self.sharer)
            last = stage
            stage, phase = next_stage(stage, phase, g.config.stages)
        warpgroup.wait_group(0)
        self.barriers.leave(last, self.sharer)
        return stage, phase

    @cute.jit
    def sum_blocks(self, sums, scales, stage, phase, steps, place):
        """`sums` = the sum over `steps` stages, a block of k each, of their products scaled in fp32.

        `scales` are the stages' scales in shared memory; `place` is the first row in the tile, the first feature in its
        block of 128, and the thread's index in its warpgroup. While the products of one block are scaled and added, the
        tensor cores make the next: in this warpgroup, where a thread has registers for both; else in the other. A loop
        can't end with instructions in flight (ptxas would serialize them all), so a turn of it takes several blocks.

        Returns the stage and phase that follow.
        """
        row_in_tile, first_feature, thread = place
        lane, warp = thread % WARP, thread // WARP
        swap = self.geometry.config.swap
        first_token = accumulator_column(lane) if swap else row_in_tile + accumulator_row(warp, lane)
        place = (ptx.keep(first_token), first_feature)
        sums.fill(0.0)
        for _ in cutlass.range(steps // BLOCKS_AT_ONCE, unroll=1):
            stage, phase = self._sum_some(BLOCKS_AT_ONCE, sums, scales, stage, phase, place)
        rest = steps % BLOCKS_AT_ONCE
        for _ in cutlass.range(rest // 2, unroll=1):
            stage, phase = self._sum_some(2, sums, scales, stage, phase, place)
        for _ in cutlass.range(rest % 2, unroll=1):
            stage, phase = self._sum_some(1, sums, scales, stage, phase, place)
        return stage, phase

    @cute.jit
    def _sum_some(self, count: cutlass.Constexpr, sums, scales, stage, phase, place):
        """Add the scaled products of `count` blocks of k to `sums`."""
        g = self.geometry
        mma = make_mma(g, self.element, self.accumulator)
        sets = min(g.product_sets, count)
        products = [cute.make_rmem_tensor(sums.shape, Float32) for _ in range(sets)]
        last = stage
        for block in cutlass.range_constexpr(count):
            cute.arch.mbarrier_wait(self.barriers.full(stage), phase)
            self._multiply(mma, products[block % sets], stage, False)
            if const_expr(sets == 1):
                self._add_scaled(sums, products[0], scales, stage, place, 0)
            elif const_expr(block > 0):
                self._add_scaled(sums, products[(block - 1) % sets], scales, last, place, 1)
            last = stage
            stage, phase = next_stage(stage, phase, g.config.stages)
        if const_expr(sets > 1):
            self._add_scaled(sums, products[(count - 1) % sets], scales, last, place, 0)
        return stage, phase

    def _add_scaled(self, sums, products, scales, stage, place, in_flight):
        """`sums` += `products` times a stage's scales, once no more than `in_flight` later stages are being multiplied.

        And leave the stage.
        """
        g, config = self.geometry, self.geometry.config
        factors = self._factors(scales + stage * g.stage_scales, place)
        warpgroup.wait_group(in_flight)
        cute.arch.sync_warp()  # all lanes have their scales
        self.barriers.leave(stage, self.sharer)
        for row_block in range(g.row_blocks):
            for eight in range(g.columns // 8):
                for j in range(2):
                    row, group = 2 * row_block + j, 8 * eight // g.scale_features
                    for i in range(2):
                        at = accumulator_index(g.columns, row_block, eight, j, i)
                        factor = factors[2 * eight + i] if config.swap else factors[row][group]
                        sums[at] = sums[at] + products[at] * factor

    def _factors(self, of_stage, place):
        """What a thread's products are multiplied by: swapped, a number a column; else, for each of its rows, one for
        each `scale_features` columns."""
        g, config = self.geometry, self.geometry.config
        first_token, first_feature = place
        of_weights = cute.make_tensor(of_stage + config.tile_m, cute.make_layout(g.weight_scales))
        if config.swap:
            first_token = cute.assume(first_token, divby=2)
            of_tokens = cute.make_tensor(of_stage + first_token, cute.make_layout(config.tile_m))
            return [of_tokens[8 * (i // 2) + i % 2] * of_weights[0] for i in range(g.columns // 4)]
        blocks = [weight_block(first_feature, i, g.scale_features) for i in range(g.columns // g.scale_features)]
        weights = [of_weights[block] for block in blocks]
        of_tokens = cute.make_tensor(of_stage + first_token, cute.make_layout(config.tile_m))
        rows = [INSTRUCTION_ROWS * row_block + 8 * j for row_block in range(g.row_blocks) for j in range(2)]
        return [[of_tokens[row] * weight for weight in weights] for row in rows]

    def _multiply(self, mma, sums, stage, accumulate):
        """Enqueue the products of a stage; the first overwrites `sums` unless `accumulate`."""
        warpgroup.fence()
        for block in range(self.geometry.config.tile_k // INSTRUCTION_K):
            mma.set(warpgroup.Field.ACCUMULATE, accumulate or block > 0)
            at = (None, None, block, stage)
            cute.gemm(mma, sums, self.operand_x[at], self.operand_y[at], sums)
        warpgroup.commit_group()
