"""The epilogue: from a tile's accumulators to D.

    D[m,n] = cast((accumulator - azp[m] * azp_adj[n]) * scale_a[m] * scale_b[n] + bias[n])

Which vectors there are, and in which order they are applied, `variant.VECTORS` says. If k is split, the partial
accumulators of the other blocks are added first.

Layouts: a thread holds, for each 64 rows and 8 columns, two rows by two neighbouring columns (PTX ISA, wgmma
accumulator layout). A warpgroup works in subtiles of 64 rows by up to 32 columns: `stmatrix` writes them to shared
memory, transposed if operands are swapped and in TMA's swizzle, and TMA stores them.

Warps: each consumer warpgroup has its own vectors, store buffers and named barrier (128 arrivals), and waits for no
other warpgroup of its block. All its threads copy vectors to shared memory (cp.async) while the tile is multiplied, so
that the epilogue never waits for memory; its warp 0 issues the TMA stores and waits for them.

Pipelines between the blocks of a split, one barrier of each kind a warpgroup: `partials_full` (1 arrival, with the
bytes that all others push), `partials_empty` (1 arrival from each block that owns subtiles).
"""

import math
from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr
from cutlass.cute.nvgpu import cpasync, warpgroup

from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_ROWS, WARP, WARPGROUP, Geometry
from w8a8_bench.kernels.cutlass.sm90 import ptx
from w8a8_bench.kernels.cutlass.sm90.fragments import (
    accumulator_column,
    accumulator_index,
    accumulator_row,
    matrix_row_bytes,
)
from w8a8_bench.kernels.cutlass.sm90.tile_order import tile_row
from w8a8_bench.kernels.cutlass.variant import Element, Per

FIRST_NAMED_BARRIER = 1
"""Named barrier 0 is the whole block's; each consumer warpgroup has one of its own after it."""


@dataclass(frozen=True)
class WarpgroupVectors:
    """The vectors of one warpgroup: their tensors in global memory, and where they are in shared memory, by name."""

    geometry: Geometry
    sources: dict
    addresses: dict

    @classmethod
    def of(cls, geometry, base, sources, group):
        addresses = {}
        offset = group * geometry.vector_words_total
        for name, words in geometry.vector_words.items():
            addresses[name] = base + cute.assume(offset, divby=4)
            offset += words
        return cls(geometry, sources, addresses)

    def shared(self, vector, out, of_token, of_feature):
        """The vector in shared memory, from this thread's first token or feature on."""
        element = {Element.FP32: Float32, Element.INT32: Int32, Element.OUT: out}[vector.element]
        first = of_token if vector.per is Per.TOKEN else of_feature
        pointer = cute.recast_ptr(self.addresses[vector.name], dtype=element) + first
        return cute.make_tensor(pointer, cute.make_layout(max(self.geometry.columns, self.geometry.warpgroup_rows)))

    @cute.jit
    def fetch(self, tile, row_in_tile, n, thread):
        """Start copying what a tile needs; out of bounds it is 0. `row_in_tile` is the warpgroup's first row of it."""
        first_token, first_feature = row_in_tile, tile.feature
        if const_expr(self.geometry.config.swap):
            first_token, first_feature = Int32(0), tile.feature + row_in_tile
        for vector in self.geometry.variant.vectors:
            self._copy(vector, tile, first_token, first_feature, n, thread)

    @cute.jit
    def _copy(self, vector: cutlass.Constexpr, tile, first_token, first_feature, n, thread):
        """A thread copies a word. A single element has stride 0."""
        source, per_word = self.sources[vector.name], vector.elements_of_word
        mode = 0 if vector.per is Per.TOKEN or not vector.may_be_single else 1
        step = Int64(1) if const_expr(per_word > 1) else Int64(source.stride[mode])
        if const_expr(vector.may_be_single):
            step = Int64(0) if source.shape[mode] == 1 else step
        words = cute.recast_ptr(source.iterator, dtype=Int32) if const_expr(per_word > 1) else source.iterator
        for first in cutlass.range_constexpr(0, self.geometry.vector_words[vector.name], WARPGROUP):
            if const_expr(vector.per is Per.TOKEN):
                index = tile_row(tile.token, first_token + first + thread, self.geometry.token_piece, cutlass.max)
                self._copy_word(vector.name, words, step, first, index, tile.token + tile.valid_rows, thread)
            else:
                index = first_feature // per_word + first + thread
                self._copy_word(vector.name, words, step, first, index, n // per_word, thread)

    @cute.jit
    def _copy_word(self, name, source, step, first: cutlass.Constexpr, index, limit, thread):
        to = cute.recast_ptr(self.addresses[name], dtype=source.value_type) + first + thread
        inside = index < limit
        # An address in bounds even if nothing is read.
        at = source + (Int64(index) if inside else Int64(0)) * step
        read = Int32(4) if inside else Int32(0)
        words = self.geometry.vector_words[name]
        if const_expr(words - first < WARPGROUP):
            if first + thread < words:
                ptx.copy_word_async(to, at, read)
        else:
            ptx.copy_word_async(to, at, read)


def store_layout(geometry, element):
    """(64, subtile_columns, buffer) in shared memory, rows contiguous if operands are swapped, swizzled for TMA."""
    kinds = warpgroup.SmemLayoutAtomKind
    kind = {32: kinds.K_SW64, 16: kinds.K_SW32, 8: kinds.K_INTER}[geometry.subtile_columns]
    if geometry.config.swap:
        kind = kinds.MN_SW128
    atom = warpgroup.make_smem_layout_atom(kind, element)
    shape = (INSTRUCTION_ROWS, geometry.subtile_columns, geometry.store_buffers)
    return cute.tile_to_shape(atom, shape, order=(0, 1, 2))


@dataclass(frozen=True)
class SubtileStore:
    """A warpgroup's buffers for subtiles of its tile, and the TMA that empties them."""

    geometry: Geometry
    element: type
    tma: cute.CopyAtom
    address: Int32
    buffers: cute.Tensor
    target: cute.Tensor
    barrier: Int32

    @classmethod
    def of(cls, geometry, element, tma, d, base, layout, group):
        first = base + cute.assume(group * cute.cosize(layout), divby=512)
        buffers = cute.make_tensor(cute.recast_ptr(first, layout.inner, dtype=element), layout.outer)
        return cls(geometry, element, tma, first.toint(), buffers, d, FIRST_NAMED_BARRIER + group)

    def convert(self, values):
        """fp32 `values` of a subtile as elements of D, two to each of the registers that are returned."""
        converted = cute.make_rmem_tensor(self.geometry.subtile_values, self.element)
        converted.store(values.load().to(self.element))
        return cute.recast_tensor(converted, Int32)

    @cute.jit
    def store(self, registers, origins, buffer, lane, warp):
        """Store a subtile that `convert` made. Each `stored_rows` of it begin at one of `origins` in D.

        Returns the next buffer. The one barrier says both that this subtile is written and that the next one's buffer
        has been read: warp 0 issues all stores and waits, before the barrier, for all but the newest.
        """
        g = self.geometry
        start = self.address + buffer * g.subtile_bytes
        for eight in cutlass.range_constexpr(0, g.subtile_columns // 8, 2):
            first = 2 * eight
            ptx.store_matrices(
                start + matrix_row_bytes(lane, warp, eight, g.subtile_columns, swap=g.config.swap),
                [registers[first + k] for k in range(min(4, g.subtile_values // 2 - first))],
                transposed=g.config.swap,
            )
        cute.arch.fence_proxy("async.shared", space="cta")
        if warp == 0:
            cute.arch.cp_async_bulk_wait_group(g.store_buffers - 2, read=True)
        cute.arch.barrier(barrier_id=self.barrier, number_of_threads=WARPGROUP)
        if warp == 0:
            for piece in cutlass.range_constexpr(len(origins)):
                self._write(piece, origins[piece], buffer)
            cute.arch.cp_async_bulk_commit_group()
        return Int32(0) if buffer == g.store_buffers - 1 else buffer + 1

    def _write(self, piece, origin, buffer):
        shape = (self.geometry.stored_rows, self.geometry.subtile_columns)
        rows = cute.local_tile(self.buffers, (*shape, self.geometry.store_buffers), (piece, 0, 0))
        to = cute.local_tile(cute.domain_offset(origin, self.target), shape, (0, 0))
        source, target = cpasync.tma_partition(
            self.tma, 0, cute.make_layout(1), cute.group_modes(rows, 0, 2), cute.group_modes(to, 0, 2)
        )
        cute.copy(self.tma, source[(None, buffer)], target)

    @cute.jit
    def finish(self, thread):
        """Before the block ends: its shared memory must outlive the stores that read it."""
        if cute.arch.make_warp_uniform(thread // WARP) == 0:
            cute.arch.cp_async_bulk_wait_group(0, read=True)


@dataclass(frozen=True)
class Epilogue:
    """The epilogue of one warpgroup; `thread` is the thread's index in it."""

    geometry: Geometry
    out: type
    accumulator_type: type
    vectors: WarpgroupVectors
    store: SubtileStore
    received: cute.Pointer
    """Partial accumulators that other blocks of the split push here, for all warpgroups."""
    group: Int32
    thread: Int32

    @cute.jit
    def exchange(self, accumulators, block, phase):
        """Push the subtiles that other blocks of the split own to them, and wait for what they push here."""
        g, split, barriers = self.geometry, self.geometry.config.split_k, block.barriers
        full, empty = barriers.partials_full(self.group), barriers.partials_empty(self.group)
        bits = cute.recast_tensor(accumulators, Int32)
        if block.split_rank < g.owners and self.thread == 0:
            owned = (g.subtiles - 1 - block.split_rank) // split + 1
            cute.arch.mbarrier_arrive_and_expect_tx(full, owned * (split - 1) * WARPGROUP * g.subtile_values * 4)
        cute.arch.mbarrier_wait(empty, phase ^ 1)
        for subtile in cutlass.range_constexpr(g.subtiles):
            owner = subtile % split
            if block.split_rank != owner:
                slot = block.split_rank - 1 if block.split_rank > owner else block.split_rank
                for eight in cutlass.range_constexpr(g.subtile_columns // 8):
                    first = self._accumulator_index(subtile, eight, 0, 0)
                    cute.arch.store_async_dsmem(
                        self.received + cute.assume(self._received_word(slot, subtile, eight), divby=4),
                        (bits[first], bits[first + 1], bits[first + 2], bits[first + 3]),
                        full,
                        block.rank + (owner - block.split_rank) * g.cluster_rows * g.cluster_columns,
                    )
        if block.split_rank < g.owners:
            cute.arch.mbarrier_wait(full, phase)

    @cute.jit
    def release(self, block):
        """Tell all blocks of the split that what they pushed here has been read. After a barrier of the warpgroup."""
        g, split = self.geometry, self.geometry.config.split_k
        if block.split_rank < g.owners and self.thread == 0:
            for other in cutlass.range_constexpr(split):
                peer = block.rank + (other - block.split_rank) * g.cluster_rows * g.cluster_columns
                cute.arch.mbarrier_arrive(block.barriers.partials_empty(self.group), peer)

    @cute.jit
    def store_tile(self, accumulators, tile, row_in_tile, buffer, split_rank):
        """Finish and store a warpgroup's share of a tile, or the subtiles of it that this block owns."""
        g, split = self.geometry, self.geometry.config.split_k
        lane, warp = self.thread % WARP, cute.arch.make_warp_uniform(self.thread // WARP)
        self._await_vectors()
        for subtile in cutlass.range_constexpr(g.subtiles):
            if const_expr(split == 1):
                registers = self.store.convert(self._finish(accumulators, subtile, lane, warp))
                origins = self._subtile_origins(subtile, tile.token, tile.feature, row_in_tile)
                buffer = self.store.store(registers, origins, buffer, lane, warp)
            else:
                if split_rank == subtile % split:
                    registers = self.store.convert(self._finish(accumulators, subtile, lane, warp))
                    origins = self._subtile_origins(subtile, tile.token, tile.feature, row_in_tile)
                    buffer = self.store.store(registers, origins, buffer, lane, warp)
        return buffer

    def make_waiting(self):
        """Registers for a warpgroup's share of a tile that is finished and still to be stored."""
        return cute.make_rmem_tensor(self.geometry.accumulators // 2, Int32)

    @cute.jit
    def finish_tile(self, accumulators, waiting):
        """Finish a warpgroup's share of a tile, into registers that are `waiting` to be stored."""
        g = self.geometry
        lane, warp = self.thread % WARP, cute.arch.make_warp_uniform(self.thread // WARP)
        self._await_vectors()
        for subtile in cutlass.range_constexpr(g.subtiles):
            registers = self.store.convert(self._finish(accumulators, subtile, lane, warp))
            for k in cutlass.range_constexpr(g.subtile_values // 2):
                waiting[subtile * (g.subtile_values // 2) + k] = registers[k]

    @cute.jit
    def store_waiting(self, subtile: cutlass.Constexpr, waiting, token, feature, row_in_tile, buffer):
        """Store a subtile that `finish_tile` left of the tile at `token` and `feature`. Returns the next buffer."""
        lane, warp = self.thread % WARP, cute.arch.make_warp_uniform(self.thread // WARP)
        count = self.geometry.subtile_values // 2
        registers = [waiting[subtile * count + k] for k in range(count)]
        origins = self._subtile_origins(subtile, token, feature, row_in_tile)
        return self.store.store(registers, origins, buffer, lane, warp)

    @cute.jit
    def _await_vectors(self):
        """Wait until all that the warpgroup fetched is in shared memory."""
        if const_expr(self.geometry.vector_words):
            ptx.wait_for_own_copies()
            cute.arch.barrier(barrier_id=self.store.barrier, number_of_threads=WARPGROUP)

    def _subtile_origins(self, subtile, token, feature, row_in_tile):
        """Row and column of D, as the instruction sees it, at which each `stored_rows` of a subtile begin."""
        g = self.geometry
        row_block, column_subtile = divmod(subtile, g.subtiles_of_row_block)
        row, column = row_in_tile + INSTRUCTION_ROWS * row_block, g.subtile_columns * column_subtile
        if g.config.swap:
            return [(feature + row, tile_row(token, column, g.token_piece, cutlass.max))]
        rows = [row + stored for stored in range(0, INSTRUCTION_ROWS, g.stored_rows)]
        return [(tile_row(token, r, g.token_piece, cutlass.max), feature + column) for r in rows]

    def _accumulator_index(self, subtile, eight, j, i):
        """Of accumulator (eight, j, i) of a subtile in a thread's registers."""
        g = self.geometry
        row_block, column_subtile = divmod(subtile, g.subtiles_of_row_block)
        return accumulator_index(g.columns, row_block, column_subtile * (g.subtile_columns // 8) + eight, j, i)

    def _received_word(self, slot, subtile, eight):
        """Where a block keeps this thread's four accumulators that the block in `slot` pushed for a subtile it owns."""
        g = self.geometry
        of_group = self.group * (g.received_bytes // 4)
        index = slot * g.received_subtiles + subtile // g.config.split_k
        return of_group + (index * (g.subtile_columns // 8) + eight) * (4 * WARPGROUP) + 4 * self.thread

    def _finish(self, accumulators, subtile, lane, warp):
        """The fp32 values of a subtile, in the order of the accumulators."""
        g, swap = self.geometry, self.geometry.config.swap
        row_block, column_subtile = divmod(subtile, g.subtiles_of_row_block)
        row, column = accumulator_row(warp, lane), cute.assume(accumulator_column(lane), divby=2)
        of_token, of_feature = (column, row) if swap else (row, column)
        shared = {v.name: self.vectors.shared(v, self.out, of_token, of_feature) for v in g.variant.vectors}
        values = cute.make_rmem_tensor(g.subtile_values, Float32)
        for eight in range(g.subtile_columns // 8):
            totals = self._totals(accumulators, subtile, eight)
            for j in range(2):
                for i in range(2):
                    in_row = INSTRUCTION_ROWS * row_block + 8 * j
                    in_column = g.subtile_columns * column_subtile + 8 * eight + i
                    token, feature = (in_column, in_row) if swap else (in_row, in_column)
                    at = {Per.TOKEN: token, Per.FEATURE: feature}
                    values[4 * eight + 2 * j + i] = self._apply(totals[2 * j + i], shared, at)
        return values

    def _apply(self, value, shared, at):
        """The fp32 value of one accumulator: int32 vectors are applied before it becomes one, the others after it."""
        vectors = {vector.name: vector for vector in self.geometry.variant.vectors}
        for vector in sorted(vectors.values(), key=lambda vector: vector.element is not Element.INT32):
            if vector.apply is not None:
                number = Int32 if vector.element is Element.INT32 else Float32
                value = value.to(number)
                factors = [vectors[vector.factor]] if vector.factor in vectors else []
                elements = [shared[v.name][at[v.per]].to(number) for v in (*factors, vector)]
                value = vector.apply(value, math.prod(elements[1:], start=elements[0]))
        return value.to(Float32)

    def _totals(self, accumulators, subtile, eight):
        """A thread's four accumulators, added over all blocks of a split in the order of their ranks, by the owner."""
        own = [accumulators[self._accumulator_index(subtile, eight, j, i)] for j in range(2) for i in range(2)]
        totals, split = None, self.geometry.config.split_k
        owner = subtile % split
        for rank in range(split):
            summands = own
            if rank != owner:
                word = self._received_word(rank - 1 if rank > owner else rank, subtile, eight)
                pointer = cute.recast_ptr(self.received + cute.assume(word, divby=4), dtype=self.accumulator_type)
                pushed = cute.make_tensor(pointer, cute.make_layout(4))
                summands = [pushed[k] for k in range(4)]
            totals = summands if totals is None else [a + b for a, b in zip(totals, summands, strict=True)]
        return totals
