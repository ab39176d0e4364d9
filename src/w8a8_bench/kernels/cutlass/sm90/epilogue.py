"""What becomes of a tile's sums: split-k exchange, zero point, scales, bias, output format, and the way to memory.

    out = cast((sum - azp_token * azp_adj_feature) * scale_token * scale_feature + bias_feature)

Vectors by token and by feature are copied to shared memory (cp.async) while the tile is being multiplied, so that the
epilogue never waits for memory. A thread holds, for each 64 rows and 8 columns, two rows by two neighbouring columns
(PTX ISA, wgmma accumulator layout); `stmatrix` lays them out, transposed where operands are swapped, in parts of 64
rows by up to 32 columns that TMA writes. All of it is a warpgroup's own business: none waits for another here.
"""

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
from w8a8_bench.kernels.cutlass.sm90.tile_scheduler import tile_row

FIRST_NAMED_BARRIER = 1
"""Named barrier 0 is the whole block's; each consumer warpgroup has one of its own after it."""


@dataclass(frozen=True)
class Vectors:
    """The vectors of one warpgroup: where they come from, and where they are in shared memory."""

    geometry: Geometry
    sources: object
    addresses: dict

    @classmethod
    def of(cls, geometry, base, sources, group):
        addresses = {}
        offset = group * geometry.vector_words_total
        for name, words in geometry.vector_words.items():
            addresses[name] = base + cute.assume(offset, divby=4)
            offset += words
        return cls(geometry, sources, addresses)

    def __contains__(self, name):
        return name in self.addresses

    def tensor(self, name, element, first):
        """The vector from its element `first` on; None where the variant has none."""
        if name not in self.addresses:
            return None
        pointer = cute.recast_ptr(self.addresses[name], dtype=element) + first
        return cute.make_tensor(pointer, cute.make_layout(max(self.geometry.columns, self.geometry.warpgroup_rows)))

    @cute.jit
    def fetch(self, token, feature, row_in_tile, m, n, thread):
        """Start copying what the tile at `token`, `feature` needs; out of bounds it is 0. A single scale has stride 0.

        `row_in_tile` is the warpgroup's first row of it.
        """
        first_token = row_in_tile
        if const_expr(self.geometry.config.swap):
            first_token, feature = Int32(0), feature + row_in_tile
        if const_expr("scale_token" in self):
            scale = self.sources.scale_a
            step = Int64(0) if scale.shape[0] == 1 else Int64(scale.stride[0])
            self._copy_tokens("scale_token", scale.iterator, step, token, first_token, m, thread)
        if const_expr("scale_feature" in self):
            scale = self.sources.scale_b
            step = Int64(0) if scale.shape[1] == 1 else Int64(scale.stride[1])
            self._copy("scale_feature", scale.iterator, step, feature, n, thread)
        if const_expr("bias" in self):  # two elements a word
            pairs = cute.recast_ptr(self.sources.bias.iterator, dtype=Int32)
            self._copy("bias", pairs, Int64(1), feature // 2, n // 2, thread)
        if const_expr("azp_adj" in self):
            self._copy("azp_adj", self.sources.azp_adj.iterator, Int64(1), feature, n, thread)
        if const_expr("azp" in self):
            azp = self.sources.azp
            self._copy_tokens("azp", azp.iterator, Int64(azp.stride[0]), token, first_token, m, thread)

    @cute.jit
    def _copy(self, name, source, step, start, limit, thread):
        """A thread a word, from `start` on; `limit` is where the source ends."""
        for first in cutlass.range_constexpr(0, self.geometry.vector_words[name], WARPGROUP):
            self._copy_word(name, source, step, first, start + first + thread, limit, thread)

    @cute.jit
    def _copy_tokens(self, name, source, step, begin, first_row, limit, thread):
        """A thread a word, of the rows of the tile at `begin` from `first_row` on."""
        for first in cutlass.range_constexpr(0, self.geometry.vector_words[name], WARPGROUP):
            index = tile_row(begin, first_row + first + thread, self.geometry.token_piece, cutlass.max)
            self._copy_word(name, source, step, first, index, limit, thread)

    @cute.jit
    def _copy_word(self, name, source, step, first: cutlass.Constexpr, index, limit, thread):
        to = cute.recast_ptr(self.addresses[name], dtype=source.value_type) + first + thread
        inside = index < limit
        # An address in bounds even where nothing is read.
        at = source + (Int64(index) if inside else Int64(0)) * step
        read = Int32(4) if inside else Int32(0)
        words = self.geometry.vector_words[name]
        if const_expr(words - first < WARPGROUP):
            if first + thread < words:
                ptx.copy_word_async(to, at, read)
        else:
            ptx.copy_word_async(to, at, read)


def store_layout(geometry, element):
    """(64, part_columns, buffer) in shared memory, rows contiguous where operands are swapped, swizzled for TMA."""
    kinds = warpgroup.SmemLayoutAtomKind
    kind = {32: kinds.K_SW64, 16: kinds.K_SW32, 8: kinds.K_INTER}[geometry.part_columns]
    if geometry.config.swap:
        kind = kinds.MN_SW128
    atom = warpgroup.make_smem_layout_atom(kind, element)
    shape = (INSTRUCTION_ROWS, geometry.part_columns, geometry.store_buffers)
    return cute.tile_to_shape(atom, shape, order=(0, 1, 2))


@dataclass(frozen=True)
class Store:
    """A warpgroup's buffers for parts of its tile, and the TMA that empties them."""

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

    @cute.jit
    def part(self, values, places, buffer, lane, warp):
        """Convert and store fp32 `values` of a part. `places` are where in D each `stored_rows` of it begin.

        Returns the next buffer. The one barrier says both that this part is written and that the next part's buffer
        has been read: warp 0 issues all stores and waits, before the barrier, for all but the newest.
        """
        g = self.geometry
        converted = cute.make_rmem_tensor(g.part_values, self.element)
        converted.store(values.load().to(self.element))
        registers = cute.recast_tensor(converted, Int32)
        start = self.address + buffer * g.part_bytes
        for eight in cutlass.range_constexpr(0, g.part_columns // 8, 2):
            first = 2 * eight
            ptx.store_matrices(
                start + matrix_row_bytes(lane, warp, eight, g.part_columns, swap=g.config.swap),
                [registers[first + k] for k in range(min(4, g.part_values // 2 - first))],
                transposed=g.config.swap,
            )
        cute.arch.fence_proxy("async.shared", space="cta")
        if warp == 0:
            cute.arch.cp_async_bulk_wait_group(g.store_buffers - 2, read=True)
        cute.arch.barrier(barrier_id=self.barrier, number_of_threads=WARPGROUP)
        if warp == 0:
            for piece in cutlass.range_constexpr(len(places)):
                self._write(piece, places[piece], buffer)
            cute.arch.cp_async_bulk_commit_group()
        return Int32(0) if buffer == g.store_buffers - 1 else buffer + 1

    def _write(self, piece, place, buffer):
        shape = (self.geometry.stored_rows, self.geometry.part_columns)
        rows = cute.local_tile(self.buffers, (*shape, self.geometry.store_buffers), (piece, 0, 0))
        to = cute.local_tile(cute.domain_offset(place, self.target), shape, (0, 0))
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
    accumulator: type
    vectors: Vectors
    store: Store
    received: cute.Pointer
    """Sums that other blocks of the split push here, for all warpgroups."""
    group: Int32
    thread: Int32

    @cute.jit
    def exchange(self, sums, block, phase):
        """Push the parts that other blocks of the split own to them, and wait for what they push here."""
        g, split, barriers = self.geometry, self.geometry.config.split_k, block.barriers
        received, drained = barriers.received(self.group), barriers.drained(self.group)
        bits = cute.recast_tensor(sums, Int32)
        if block.split_rank < g.owners and self.thread == 0:
            owned = (g.parts - 1 - block.split_rank) // split + 1
            cute.arch.mbarrier_arrive_and_expect_tx(received, owned * (split - 1) * WARPGROUP * g.part_values * 4)
        cute.arch.mbarrier_wait(drained, phase ^ 1)
        for part in cutlass.range_constexpr(g.parts):
            owner = part % split
            if block.split_rank != owner:
                slot = block.split_rank - 1 if block.split_rank > owner else block.split_rank
                for eight in cutlass.range_constexpr(g.part_columns // 8):
                    first = self._sum_index(part, eight, 0, 0)
                    cute.arch.store_async_dsmem(
                        self.received + cute.assume(self._received_word(slot, part, eight), divby=4),
                        (bits[first], bits[first + 1], bits[first + 2], bits[first + 3]),
                        received,
                        block.rank + (owner - block.split_rank) * g.cluster_rows * g.cluster_columns,
                    )
        if block.split_rank < g.owners:
            cute.arch.mbarrier_wait(received, phase)

    @cute.jit
    def release(self, block):
        """Tell all blocks of the split that what they pushed here has been read. After a barrier of the warpgroup."""
        g, split = self.geometry, self.geometry.config.split_k
        if block.split_rank < g.owners and self.thread == 0:
            for other in cutlass.range_constexpr(split):
                peer = block.rank + (other - block.split_rank) * g.cluster_rows * g.cluster_columns
                cute.arch.mbarrier_arrive(block.barriers.drained(self.group), peer)

    @cute.jit
    def store_tile(self, sums, token, feature, row_in_tile, buffer, split_rank):
        """Finish and store a warpgroup's share of the tile at `token`, `feature`, or what of it this block owns."""
        g, split = self.geometry, self.geometry.config.split_k
        lane, warp = self.thread % WARP, cute.arch.make_warp_uniform(self.thread // WARP)
        if const_expr(g.vector_words):
            ptx.wait_for_own_copies()
            cute.arch.barrier(barrier_id=self.store.barrier, number_of_threads=WARPGROUP)
        for part in cutlass.range_constexpr(g.parts):
            if const_expr(split == 1):
                values = self._finish(sums, part, lane, warp)
                places = self._places(part, token, feature, row_in_tile)
                buffer = self.store.part(values, places, buffer, lane, warp)
            else:
                if split_rank == part % split:
                    values = self._finish(sums, part, lane, warp)
                    places = self._places(part, token, feature, row_in_tile)
                    buffer = self.store.part(values, places, buffer, lane, warp)
        return buffer

    def _places(self, part, token, feature, row_in_tile):
        """Row and column of D, as the instruction sees it, at which each `stored_rows` of a part begin."""
        g = self.geometry
        row_block, column_part = divmod(part, g.parts_of_row_block)
        row, column = row_in_tile + INSTRUCTION_ROWS * row_block, g.part_columns * column_part
        if g.config.swap:
            return [(feature + row, tile_row(token, column, g.token_piece, cutlass.max))]
        rows = [row + stored for stored in range(0, INSTRUCTION_ROWS, g.stored_rows)]
        return [(tile_row(token, r, g.token_piece, cutlass.max), feature + column) for r in rows]

    def _sum_index(self, part, eight, j, i):
        """Of accumulator (eight, j, i) of a part in a thread's registers."""
        g = self.geometry
        row_block, column_part = divmod(part, g.parts_of_row_block)
        return accumulator_index(g.columns, row_block, column_part * (g.part_columns // 8) + eight, j, i)

    def _received_word(self, slot, part, eight):
        """Where a block keeps this thread's four sums that the block in `slot` pushed for a part it owns."""
        g = self.geometry
        of_group = self.group * (g.received_bytes // 4)
        place = slot * g.received_parts + part // g.config.split_k
        return of_group + (place * (g.part_columns // 8) + eight) * (4 * WARPGROUP) + 4 * self.thread

    def _finish(self, sums, part, lane, warp):
        """The fp32 values of a part, in the order of the accumulators."""
        g, swap = self.geometry, self.geometry.config.swap
        row_block, column_part = divmod(part, g.parts_of_row_block)
        row, column = accumulator_row(warp, lane), cute.assume(accumulator_column(lane), divby=2)
        of_token, of_feature = (column, row) if swap else (row, column)
        scale_token = self.vectors.tensor("scale_token", Float32, of_token)
        scale_feature = self.vectors.tensor("scale_feature", Float32, of_feature)
        bias = self.vectors.tensor("bias", self.out, of_feature)
        azp_adj = self.vectors.tensor("azp_adj", Int32, of_feature)
        azp = self.vectors.tensor("azp", Int32, of_token)
        values = cute.make_rmem_tensor(g.part_values, Float32)
        for eight in range(g.part_columns // 8):
            totals = self._totals(sums, part, eight)
            for j in range(2):
                for i in range(2):
                    in_row = INSTRUCTION_ROWS * row_block + 8 * j
                    in_column = g.part_columns * column_part + 8 * eight + i
                    token, feature = (in_column, in_row) if swap else (in_row, in_column)
                    value = totals[2 * j + i]
                    if azp_adj is not None:
                        value = value - (azp_adj[feature] if azp is None else azp[token] * azp_adj[feature])
                    value = value.to(Float32)
                    if scale_token is not None:
                        value = value * scale_token[token] * scale_feature[feature]
                    if bias is not None:
                        value = value + bias[feature].to(Float32)
                    values[4 * eight + 2 * j + i] = value
        return values

    def _totals(self, sums, part, eight):
        """A thread's four sums, over all blocks of a split in the order of their ranks. The owner's code."""
        own = [sums[self._sum_index(part, eight, j, i)] for j in range(2) for i in range(2)]
        totals, split = None, self.geometry.config.split_k
        owner = part % split
        for rank in range(split):
            summands = own
            if rank != owner:
                word = self._received_word(rank - 1 if rank > owner else rank, part, eight)
                pointer = cute.recast_ptr(self.received + cute.assume(word, divby=4), dtype=self.accumulator)
                pushed = cute.make_tensor(pointer, cute.make_layout(4))
                summands = [pushed[k] for k in range(4)]
            totals = summands if totals is None else [a + b for a, b in zip(totals, summands, strict=True)]
        return totals
