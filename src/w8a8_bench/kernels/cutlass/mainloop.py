"""A consumer warpgroup's sums over k: all in the tensor core, or block by block with scales.

Both take a stage when its full barrier says so and leave it when the instructions that read it are done.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int8, Int32, const_expr
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_K, INSTRUCTION_ROWS, WARP, Geometry
from w8a8_bench.kernels.cutlass.layout import accumulator_column, accumulator_index, accumulator_row
from w8a8_bench.kernels.cutlass.pipeline import Barriers, next_stage


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
    rank: object
    """Of the block in its cluster."""

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
        return cls(geometry, element, accumulator, operand_x, operand_y, barriers, rank)

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
            self.barriers.leave(last, self.rank)
            last = stage
            stage, phase = next_stage(stage, phase, g.config.stages)
        warpgroup.wait_group(0)
        self.barriers.leave(last, self.rank)
        return stage, phase

    @cute.jit
    def sum_blocks(self, sums, scales, stage, phase, steps, place):
        """`sums` = the sum over `steps` stages, a block of k each, of their products scaled in fp32.

        `scales` are the stages' scales in shared memory; `place` is the first row in the tile, the warpgroup, and the
        thread's index in it. While the products of one block are scaled and added, the tensor cores multiply the next:
        a thread has registers for two. A loop can't end with instructions in flight (ptxas would serialize them all),
        so a turn of it takes several blocks, and two warpgroups begin it at different ones: one multiplies while the
        other's last products are scaled.

        Returns the stage and phase that follow.
        """
        g = self.geometry
        at_once = g.blocks_at_once
        sums.fill(0.0)
        if const_expr(at_once > 1 and g.warpgroups_of_tile > 1):
            lead = place[1] if steps > 1 else Int32(0)
            for _ in cutlass.range(lead, unroll=1):
                stage, phase = self._sum_some(at_once // 2, sums, scales, stage, phase, place)
            steps = steps - at_once // 2 * lead
        for _ in cutlass.range(steps // at_once, unroll=1):
            stage, phase = self._sum_some(at_once, sums, scales, stage, phase, place)
        if const_expr(at_once > 1):
            rest = steps % at_once
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
        products = [cute.make_rmem_tensor(sums.shape, Float32) for _ in range(min(2, count))]
        last = stage
        for block in cutlass.range_constexpr(count):
            cute.arch.mbarrier_wait(self.barriers.full(stage), phase)
            self._multiply(mma, products[block % 2], stage, False)
            if const_expr(block > 0):
                self._add_scaled(sums, products[(block - 1) % 2], scales, last, place, 1)
            last = stage
            stage, phase = next_stage(stage, phase, g.config.stages)
        self._add_scaled(sums, products[(count - 1) % 2], scales, last, place, 0)
        return stage, phase

    def _add_scaled(self, sums, products, scales, stage, place, in_flight):
        """`sums` += `products` times a stage's scales, once no more than `in_flight` later stages are being multiplied.

        And leave the stage.
        """
        g, config = self.geometry, self.geometry.config
        row_in_tile, _, thread = place
        lane, warp = thread % WARP, thread // WARP
        first_token = row_in_tile + accumulator_row(warp, lane)
        tokens = g.row_blocks * 2
        if config.swap:
            first_token = cute.assume(accumulator_column(lane), divby=2)
            tokens = g.columns // 4
        of_stage = scales + stage * g.stage_scales
        of_tokens = cute.make_tensor(of_stage + first_token, cute.make_layout(config.tile_m))
        of_weights = cute.make_tensor(of_stage + config.tile_m, cute.make_layout(1))[0]
        factors = []
        for i in range(tokens):
            at = 8 * (i // 2) + i % 2 if config.swap else INSTRUCTION_ROWS * (i // 2) + 8 * (i % 2)
            factors.append(of_tokens[at] * of_weights)
        warpgroup.wait_group(in_flight)
        cute.arch.sync_warp()  # all lanes have their scales
        self.barriers.leave(stage, self.rank)
        for row_block in range(g.row_blocks):
            for eight in range(g.columns // 8):
                for j in range(2):
                    for i in range(2):
                        at = accumulator_index(g.columns, row_block, eight, j, i)
                        factor = factors[2 * eight + i if config.swap else 2 * row_block + j]
                        sums[at] = sums[at] + products[at] * factor

    def _multiply(self, mma, sums, stage, accumulate):
        """Enqueue the products of a stage; the first overwrites `sums` unless `accumulate`."""
        warpgroup.fence()
        for block in range(self.geometry.config.tile_k // INSTRUCTION_K):
            mma.set(warpgroup.Field.ACCUMULATE, accumulate or block > 0)
            at = (None, None, block, stage)
            cute.gemm(mma, sums, self.operand_x[at], self.operand_y[at], sums)
        warpgroup.commit_group()
