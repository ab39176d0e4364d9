"""A consumer warpgroup's accumulators of a tile: summed over k in the tensor core, or block by block with scales.

    accumulator[row,column] = sum_k X[row,k] Y[column,k]
    accumulator[row,column] = sum_kb s_a[m,kb] s_b[kb,n//128] sum_{k in kb} X[row,k] Y[column,k]          blockwise

X and Y are the operands whose rows are the instruction's rows and columns. Their stages lie in shared memory as
[extent, tile_k], k contiguous, in the 128-byte swizzle; a warpgroup multiplies its own rows of X by all of Y.

Both functions are the consumer's side of the stage pipeline: they wait for a stage's full barrier, and arrive at its
empty barrier, once a warp, when the instructions that read the stage are done.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int8, Int32, const_expr
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_K, INSTRUCTION_ROWS, LEAD, WARP, Geometry
from w8a8_bench.kernels.cutlass.sm90 import ptx
from w8a8_bench.kernels.cutlass.sm90.fragments import (
    accumulator_column,
    accumulator_index,
    accumulator_row,
    weight_block,
)
from w8a8_bench.kernels.cutlass.sm90.pipeline import Barriers, next_stage

BLOCKS_AT_ONCE = 8
"""Blocks of k in an iteration of the loop over scaled products."""


def make_mma(geometry, element, accumulator_type):
    """One warpgroup's instruction, 64 x columns x 32, both operands in shared memory with k contiguous."""
    make = warpgroup.MmaI8Op if element is Int8 else warpgroup.MmaF8Op
    shape = (INSTRUCTION_ROWS, geometry.columns, INSTRUCTION_K)
    k_major = OperandMajorMode.K
    op = make(element, element, accumulator_type, shape, warpgroup.OperandSource.SMEM, k_major, k_major)
    return cute.make_tiled_mma(cute.make_mma_atom(op), (1, 1, 1))


@dataclass(frozen=True)
class Mainloop:
    """What a warpgroup multiplies: fragments of both operands, each with a mode for the stage."""

    geometry: Geometry
    element: type
    accumulator_type: type
    operand_x: cute.Tensor
    operand_y: cute.Tensor
    barriers: Barriers
    release_rank: Int32
    """The block at whose empty barriers this lane arrives, or -1."""

    @classmethod
    def of(cls, geometry, element, accumulator_type, shared_x, shared_y, barriers, rank, group):
        mma = make_mma(geometry, element, accumulator_type)
        if const_expr(geometry.warpgroups_of_tile > 1):
            tile = (geometry.warpgroup_rows, geometry.config.tile_k, geometry.config.stages)
            shared_x = cute.local_tile(shared_x, tile, (group, 0, 0))
        # A descriptor of shared memory is the warpgroup's, so it is partitioned as for its first thread.
        first = mma.get_slice(0)
        operand_x = mma.make_fragment_A(first.partition_A(shared_x))
        operand_y = mma.make_fragment_B(first.partition_B(shared_y))
        return cls(geometry, element, accumulator_type, operand_x, operand_y, barriers, barriers.release_rank(rank))

    def make_accumulators(self):
        """Registers for a warpgroup's share of a tile."""
        shape = (self.geometry.warpgroup_rows, self.geometry.columns)
        mma = make_mma(self.geometry, self.element, self.accumulator_type)
        return cute.make_rmem_tensor(mma.partition_shape_C(shape), self.accumulator_type)

    @cute.jit
    def _let_follow(self, leads):
        """Tell the other warpgroup of a staggered tile to begin, if this lane `leads`."""
        if leads != 0:
            cute.arch.mbarrier_arrive(self.barriers.order(1))

    @cute.jit
    def accumulate(self, accumulators, stage, phase, steps, leads):
        """`accumulators` = the products of `steps` stages.

        One stage's instructions are in flight while the next is awaited. With `LEAD` stages begun, the other warpgroup
        may follow if this lane `leads`. Returns the stage and phase that follow.
        """
        self.begin(accumulators, stage, phase)
        return self.go_on(accumulators, stage, phase, steps, leads)

    @cute.jit
    def begin(self, accumulators, stage, phase):
        """Start multiplying a tile's first stage."""
        mma = make_mma(self.geometry, self.element, self.accumulator_type)
        cute.arch.mbarrier_wait(self.barriers.full(stage), phase)
        self._multiply(mma, accumulators, stage, False)

    @cute.jit
    def next_step(self, accumulators, stage, phase):
        """Start multiplying the stage after `stage`, and wait for `stage`. Returns the one in flight and its phase."""
        mma = make_mma(self.geometry, self.element, self.accumulator_type)
        last = stage
        stage, phase = next_stage(stage, phase, self.geometry.config.stages)
        cute.arch.mbarrier_wait(self.barriers.full(stage), phase)
        self._multiply(mma, accumulators, stage, True)
        warpgroup.wait_group(1)
        self.barriers.release(last, self.release_rank)
        return stage, phase

    @cute.jit
    def go_on(self, accumulators, stage, phase, steps, leads):
        """The rest of `accumulate`: `steps` stages from the one whose instructions are in flight."""
        g = self.geometry
        mma = make_mma(g, self.element, self.accumulator_type)
        last = stage
        stage, phase = next_stage(stage, phase, g.config.stages)
        for step in cutlass.range(1, steps, unroll=1):
            cute.arch.mbarrier_wait(self.barriers.full(stage), phase)
            self._multiply(mma, accumulators, stage, True)
            if const_expr(g.is_staggered):
                if step == LEAD - 1:
                    self._let_follow(leads)
            warpgroup.wait_group(1)
            self.barriers.release(last, self.release_rank)
            last = stage
            stage, phase = next_stage(stage, phase, g.config.stages)
        warpgroup.wait_group(0)
        self.barriers.release(last, self.release_rank)
        return stage, phase

    @cute.jit
    def accumulate_blocks(self, accumulators, scales, stage, phase, steps, coordinates, leads):
        """`accumulators` = the sum over `steps` stages, a block of k each, of their products scaled in fp32.

        `scales` are the stages' scales in shared memory; `coordinates` are the first row in the tile, the first feature
        in its block of 128, and the thread's index in its warpgroup. While the products of one block are scaled and
        added, the tensor cores make the next: in this warpgroup if a thread has registers for both, else in the other.
        An iteration can't end with instructions in flight (ptxas would serialize them all), so it takes several blocks.
        `leads` is as in `accumulate`.

        Returns the stage and phase that follow.
        """
        row_in_tile, first_feature, thread = coordinates
        lane, warp = thread % WARP, thread // WARP
        swap = self.geometry.config.swap
        first_token = accumulator_column(lane) if swap else row_in_tile + accumulator_row(warp, lane)
        coordinates = (ptx.keep(first_token), first_feature)
        accumulators.fill(0.0)
        for _ in cutlass.range(steps // BLOCKS_AT_ONCE, unroll=1):
            stage, phase = self._accumulate_some(BLOCKS_AT_ONCE, accumulators, scales, stage, phase, coordinates, leads)
            leads = Int32(0)
        rest = steps % BLOCKS_AT_ONCE
        for _ in cutlass.range(rest // 2, unroll=1):
            stage, phase = self._accumulate_some(2, accumulators, scales, stage, phase, coordinates, leads)
            leads = Int32(0)
        for _ in cutlass.range(rest % 2, unroll=1):
            stage, phase = self._accumulate_some(1, accumulators, scales, stage, phase, coordinates, leads)
        return stage, phase

    @cute.jit
    def _accumulate_some(self, count: cutlass.Constexpr, accumulators, scales, stage, phase, coordinates, leads):
        """Add the scaled products of `count` blocks of k to `accumulators`."""
        g = self.geometry
        mma = make_mma(g, self.element, self.accumulator_type)
        sets = min(g.product_sets, count)
        products = [cute.make_rmem_tensor(accumulators.shape, Float32) for _ in range(sets)]
        last = stage
        for block in cutlass.range_constexpr(count):
            cute.arch.mbarrier_wait(self.barriers.full(stage), phase)
            self._multiply(mma, products[block % sets], stage, False)
            if const_expr(g.is_staggered and block == LEAD - 1):
                self._let_follow(leads)
            if const_expr(sets == 1):
                self._add_scaled(accumulators, products[0], scales, stage, coordinates, 0)
            elif const_expr(block > 0):
                self._add_scaled(accumulators, products[(block - 1) % sets], scales, last, coordinates, 1)
            last = stage
            stage, phase = next_stage(stage, phase, g.config.stages)
        if const_expr(sets > 1):
            self._add_scaled(accumulators, products[(count - 1) % sets], scales, last, coordinates, 0)
        return stage, phase

    def _add_scaled(self, accumulators, products, scales, stage, coordinates, in_flight):
        """`accumulators` += `products` times a stage's scales; the stage is released.

        Waits until no more than `in_flight` later stages are being multiplied.
        """
        g, config = self.geometry, self.geometry.config
        factors = self._factors(scales + stage * g.stage_scales, coordinates)
        warpgroup.wait_group(in_flight)
        cute.arch.sync_warp()  # all lanes have their scales
        self.barriers.release(stage, self.release_rank)
        for row_block in range(g.row_blocks):
            for eight in range(g.columns // 8):
                for j in range(2):
                    row, group = 2 * row_block + j, 8 * eight // g.scale_features
                    for i in range(2):
                        at = accumulator_index(g.columns, row_block, eight, j, i)
                        factor = factors[2 * eight + i] if config.swap else factors[row][group]
                        accumulators[at] = accumulators[at] + products[at] * factor

    def _factors(self, of_stage, coordinates):
        """What a thread's products are multiplied by: swapped, one factor a column; else, for each of its rows, one
        for each `scale_features` columns."""
        g, config = self.geometry, self.geometry.config
        first_token, first_feature = coordinates
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

    def _multiply(self, mma, accumulators, stage, accumulate):
        """Enqueue the products of a stage; the first overwrites `accumulators` unless `accumulate`."""
        warpgroup.fence()
        for block in range(self.geometry.config.tile_k // INSTRUCTION_K):
            mma.set(warpgroup.Field.ACCUMULATE, accumulate or block > 0)
            at = (None, None, block, stage)
            cute.gemm(mma, accumulators, self.operand_x[at], self.operand_y[at], accumulators)
        warpgroup.commit_group()
