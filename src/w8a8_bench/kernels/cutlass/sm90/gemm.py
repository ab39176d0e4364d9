"""One GEMM kernel for Hopper (sm_90a) from which all variants are composed at compile time.

    D[m,n] = cast(s_a * s_b * (sum_k A[m,k] B[k,n] - azp[m] * azp_adj[n]) + bias[n])
    D[m,n] = cast(sum_kb s_a[m,kb] s_b[kb,n//128] sum_{k in kb} A[m,k] B[k,n])                    blockwise

Operands: A int8 or e4m3 [m,k], rows of any 16-byte stride; W = B^T [n,k] likewise; D bf16 or fp16 [m,n]. int8 is summed
in int32, fp8 in the tensor core's accumulator throughout ("fast"), blockwise promoted to fp32 registers every 128 of k.
m, n and k are run-time values; TMA reads what a tile has beyond them as 0, and does not write it.

Rows and columns are those of the instruction (`geometry`): rows are tokens and columns features, or, if the operands
are swapped, the other way round. A block of threads is

    consumer warpgroups 0 .. W-1   WGMMA from shared memory, epilogue, TMA store
    producer warp after them       TMA loads of both operands
    second producer, blockwise     loads of scales by cp.async; if consumers need more registers than their share, two
                                   idle warps complete the producers' warpgroup, which gives them its own

The kernel is persistent: a block asks the tile scheduler for tiles until there are none. A consumer warpgroup stores a
tile before it begins the next, or, if the schedule is overlapped, keeps it in registers as elements of D, and stores a
subtile of it beside each of the next tile's first stages. Its warps synchronize through
mbarriers in shared memory:

    barrier         one for each  arrivals that complete it                     what it says
    full            stage         1 with the bytes of both tiles; blockwise     the stage can be read
                                  32 more, when a lane's copies of scales
                                  are there
    empty           stage         4 warps x warpgroups that read it x blocks    no warp reads the stage any more
                                  that share its loads
    order           warpgroup     4 warps of the other                          ping-pong: the tensor cores are yours;
                                                                                staggered: the other is well ahead
    partials_full   warpgroup     1 with the bytes that other blocks push       split k: all partial sums have come
    partials_empty  warpgroup     1 from each block that owns subtiles          split k: your last ones have been read

A block of a cluster loads its share of an operand's tile into all blocks that need it (TMA multicast), so a stage is
empty when the warps of all sharing blocks have released it. Split k uses the cluster too: each block accumulates over
its range of k, pushes each subtile of its accumulators to the subtile's owner through distributed shared memory, and
the owners add what they got in the order of the ranks, so that the result does not depend on timing.

Documentation: PTX ISA (wgmma, cp.async.bulk.tensor, mbarrier, st.async); CUTLASS, "Efficient GEMM in CUDA".
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float16, Float32, Int8, Int16, Int32, Int64, const_expr
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.memory import SmemAllocator

from w8a8_bench.kernels.cutlass.geometry import CONSUMER_REGISTERS, PRODUCER_REGISTERS, WARP, WARPGROUP, Geometry
from w8a8_bench.kernels.cutlass.sm90 import ptx
from w8a8_bench.kernels.cutlass.sm90.epilogue import Epilogue, SubtileStore, WarpgroupVectors, store_layout
from w8a8_bench.kernels.cutlass.sm90.mainloop import Mainloop
from w8a8_bench.kernels.cutlass.sm90.pipeline import Barriers, next_stage, skip_stages
from w8a8_bench.kernels.cutlass.sm90.tile_order import k_range, tile_row
from w8a8_bench.kernels.cutlass.sm90.tile_scheduler import DenseTileScheduler
from w8a8_bench.kernels.cutlass.variant import VECTORS
from w8a8_bench.problem import BLOCK
from w8a8_bench.problem.formats import Format

ELEMENTS = {Format.INT8: Int8, Format.FP8: Float8E4M3FN, Format.BF16: BFloat16, Format.FP16: Float16}


@dataclass(frozen=True)
class Block:
    """What all warps of a block of threads know: its ranks, its work, its barriers."""

    rank: Int32
    row_rank: Int32
    column_rank: Int32
    split_rank: Int32
    cluster: Int32
    clusters: Int32
    n: Int32
    first_k: Int32
    last_k: Int32
    scheduler: DenseTileScheduler
    barriers: Barriers


class GemmKernel:
    """The kernel of one geometry. Calling it inside `cute.compile` builds the host function that launches it."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.element = ELEMENTS[geometry.variant.format]
        self.out = ELEMENTS[geometry.variant.out]
        self.accumulator_type = Int32 if geometry.variant.format is Format.INT8 else Float32
        self.swap = geometry.config.swap
        self.stages = geometry.config.stages
        self.split = geometry.config.split_k
        self.blockwise = geometry.variant.blockwise
        self.multicast = geometry.cluster_rows * geometry.cluster_columns > 1

    @cute.jit
    def __call__(
        self,
        a: cute.Tensor,
        b: cute.Tensor,
        d: cute.Tensor,
        scale_a: cute.Tensor,
        scale_b: cute.Tensor,
        bias: cute.Tensor | None,
        azp_adj: cute.Tensor | None,
        azp: cute.Tensor | None,
        max_clusters: Int32,
        stream,
    ):
        """Launch on `stream`: a [m,k], b [k,n] column-major, d [m,n]; `max_clusters` run at one time on the device.

        Vectors are those of `VECTORS`, None if the variant does not have one:
        scale_a [m,1] or [1,1] and scale_b [1,n] or [1,1], blockwise [m,kb] and [kb,nb]; bias, azp_adj [n]; azp [m,1].
        """
        g, config = self.geometry, self.geometry.config
        m, k = a.shape
        n = d.shape[1]
        a, d = with_row_stride(a, 16), with_row_stride(d, 8)
        w = cute.make_tensor(b.iterator, cute.select(b.layout, mode=[1, 0]))
        d_of_rows = d
        if const_expr(self.swap):
            d_of_rows = cute.make_tensor(d.iterator, cute.select(d.layout, mode=[1, 0]))
        x, y = (w, a) if const_expr(self.swap) else (a, w)

        layout_x = self._operand_layout(g.rows)
        layout_y = self._operand_layout(g.columns)
        layout_d = store_layout(g, self.out)
        loaded_x, loaded_y = g.loaded_tokens, g.loaded_features
        if const_expr(self.swap):
            loaded_x, loaded_y = g.loaded_features, g.loaded_tokens
        tma_x, tma_tensor_x = self._load_atom(x, layout_x, loaded_x, g.cluster_columns)
        tma_y, tma_tensor_y = self._load_atom(y, layout_y, loaded_y, g.cluster_rows)
        stored = (g.stored_rows, g.subtile_columns)
        tma_d, tma_tensor_d = cpasync.make_tiled_tma_atom(
            cpasync.CopyBulkTensorTileS2GOp(), d_of_rows, first_rows(layout_d, stored), stored
        )

        @cute.struct
        class Storage:
            x: cute.struct.Align[cute.struct.MemRange[self.element, cute.cosize(layout_x)], 1024]
            y: cute.struct.Align[cute.struct.MemRange[self.element, cute.cosize(layout_y)], 1024]
            d: cute.struct.Align[cute.struct.MemRange[self.out, g.warpgroups * cute.cosize(layout_d)], 1024]
            received: cute.struct.Align[cute.struct.MemRange[Int32, max(4, g.warpgroups * g.received_bytes // 4)], 16]
            vectors: cute.struct.Align[cute.struct.MemRange[Float32, max(4, g.warpgroups * g.vector_words_total)], 16]
            scales: cute.struct.Align[cute.struct.MemRange[Float32, max(4, self.stages * g.stage_scales)], 16]
            barriers: cute.struct.Align[cute.struct.MemRange[Int64, g.barriers], 8]

        self.storage = Storage
        assert Storage.size_in_bytes() == g.shared_bytes, "the geometry counts what is not there"

        tiles_m = cute.ceil_div(cute.ceil_div(m, config.tile_m), config.cluster[0])
        tiles_n = cute.ceil_div(cute.ceil_div(n, config.tile_n), config.cluster[1])
        self.kernel(
            tma_x,
            tma_tensor_x,
            tma_y,
            tma_tensor_y,
            tma_d,
            tma_tensor_d,
            layout_x,
            layout_y,
            layout_d,
            (scale_a, scale_b, bias, azp_adj, azp),
            Int32(m),
            Int32(n),
            Int32(tiles_m),
            Int32(tiles_n),
            Int32(cute.ceil_div(k, config.tile_k)),
        ).launch(
            grid=(g.cluster_size, cutlass.min(tiles_m * tiles_n, max_clusters), 1),
            block=(g.threads, 1, 1),
            cluster=(g.cluster_size, 1, 1),
            stream=stream,
        )

    def _operand_layout(self, extent: int):
        """(extent, tile_k, stage) in shared memory, k contiguous, in the 128-byte swizzle."""
        atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, self.element)
        return cute.tile_to_shape(atom, (extent, self.geometry.config.tile_k, self.stages), order=(0, 1, 2))

    def _load_atom(self, tensor, layout, loaded: int, sharing: int):
        op = cpasync.CopyBulkTensorTileG2SMulticastOp() if sharing > 1 else cpasync.CopyBulkTensorTileG2SOp()
        tile = (loaded, self.geometry.config.tile_k)
        return cpasync.make_tiled_tma_atom(op, tensor, first_rows(layout, tile), tile)

    @cute.kernel
    def kernel(
        self,
        tma_x: cute.CopyAtom,
        x: cute.Tensor,
        tma_y: cute.CopyAtom,
        y: cute.Tensor,
        tma_d: cute.CopyAtom,
        d: cute.Tensor,
        layout_x: cute.ComposedLayout,
        layout_y: cute.ComposedLayout,
        layout_d: cute.ComposedLayout,
        vectors: tuple,
        m: Int32,
        n: Int32,
        tiles_m: Int32,
        tiles_n: Int32,
        tiles_k: Int32,
    ):
        g = self.geometry
        sources = {vector.name: tensor for vector, tensor in zip(VECTORS, vectors, strict=True)}
        rank, cluster, _ = cute.arch.block_idx()
        _, clusters, _ = cute.arch.grid_dim()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())

        storage = SmemAllocator().allocate(self.storage)
        shared_x = storage.x.get_tensor(layout_x.outer, swizzle=layout_x.inner)
        shared_y = storage.y.get_tensor(layout_y.outer, swizzle=layout_y.inner)
        barriers = Barriers(storage.barriers.data_ptr(), g)

        is_producer = warp == g.warpgroups * 4
        if is_producer:
            for tma in (tma_x, tma_y, tma_d):
                cpasync.prefetch_descriptor(tma)
        if warp == 0:
            with cute.arch.elect_one():
                barriers.init()
            cute.arch.mbarrier_init_fence()
        # Blocks that share loads write into each other's shared memory at once. Those of a split only push
        # accumulators: their consumers wait for the others' barriers before that, and loads begin without.
        if const_expr(g.cluster_size > 1):
            cute.arch.cluster_arrive_relaxed()
        if const_expr(self.multicast):
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()

        sharing = g.cluster_rows * g.cluster_columns
        row_rank, column_rank = rank % g.cluster_rows, rank % sharing // g.cluster_rows
        split_rank = rank // sharing
        first_k, last_k = k_range(split_rank, tiles_k, self.split)
        scheduler = DenseTileScheduler(g, m, n, tiles_m, tiles_n, row_rank, column_rank)
        ranks = (rank, row_rank, column_rank, split_rank)
        block = Block(*ranks, cluster, clusters, n, first_k, last_k, scheduler, barriers)

        if warp >= g.warpgroups * 4:
            if const_expr(g.reallocates_registers):
                cute.arch.setmaxregister_decrease(PRODUCER_REGISTERS)
            if is_producer:
                self._load_tiles(block, tma_x, x, shared_x, tma_y, y, shared_y)
            if const_expr(self.blockwise):
                if warp == g.warpgroups * 4 + 1:
                    self._load_all_scales(block, sources, storage)
        else:
            if const_expr(g.reallocates_registers):
                cute.arch.setmaxregister_increase(CONSUMER_REGISTERS)
            self._consume(block, shared_x, shared_y, tma_d, d, layout_d, sources, storage)

    @cute.jit
    def _load_tiles(self, block, tma_x, x, shared_x, tma_y, y, shared_y):
        """The producer of operands: fill stages in order, for one tile after the other."""
        g, barriers = self.geometry, block.barriers
        mask_x, mask_y = self._multicast_masks(block)
        share_x, share_y = g.rows // g.cluster_columns, g.columns // g.cluster_rows
        first_x = block.column_rank * share_x if g.cluster_columns > 1 else 0
        first_y = block.row_rank * share_y if g.cluster_rows > 1 else 0

        stage, phase = Int32(0), Int32(0)
        index = block.cluster
        while index < block.scheduler.tiles:
            tile = block.scheduler.tile(index)
            if const_expr(self.swap):
                loads_x = self._loads_of_features(tma_x, x, shared_x, tile.feature, first_x, share_x)
                loads_y = self._loads_of_tokens(tma_y, y, shared_y, tile.token, first_y, share_y)
            else:
                loads_x = self._loads_of_tokens(tma_x, x, shared_x, tile.token, first_x, share_x)
                loads_y = self._loads_of_features(tma_y, y, shared_y, tile.feature, first_y, share_y)
            for step in cutlass.range(block.first_k, block.last_k, unroll=1):
                full = barriers.full(stage)
                cute.arch.mbarrier_wait(barriers.empty(stage), phase ^ 1)
                with cute.arch.elect_one():
                    cute.arch.mbarrier_arrive_and_expect_tx(full, g.stage_bytes)
                for source, to in loads_x:
                    cute.copy(tma_x, source[(None, step)], to[(None, stage)], tma_bar_ptr=full, mcast_mask=mask_x)
                for source, to in loads_y:
                    cute.copy(tma_y, source[(None, step)], to[(None, stage)], tma_bar_ptr=full, mcast_mask=mask_y)
                stage, phase = next_stage(stage, phase, self.stages)
            index += block.clusters

        if const_expr(self.multicast):
            # Other blocks' warps arrive at these barriers: they must have, before the block and its memory are gone.
            for _ in cutlass.range(self.stages, unroll=1):
                cute.arch.mbarrier_wait(barriers.empty(stage), phase ^ 1)
                stage, phase = next_stage(stage, phase, self.stages)
        elif const_expr(g.cluster_size > 1):
            cute.arch.cluster_wait()

    def _loads_of_tokens(self, tma, tensor, shared, begin, first, share):
        """What TMA reads of a tile of tokens, and its target: this block's `share` of its rows, from `first` on."""
        loaded, piece = self.geometry.loaded_tokens, self.geometry.token_piece
        rows = [first + row for row in range(0, share, loaded)]
        return [self._load_of(tma, tensor, shared, tile_row(begin, r, piece, cutlass.max), r, loaded) for r in rows]

    def _loads_of_features(self, tma, tensor, shared, begin, first, share):
        return [self._load_of(tma, tensor, shared, begin + first, first, share)]

    def _load_of(self, tma, tensor, shared, row, row_in_tile, loaded):
        """Rows of a matrix, with a mode for the step of k, and their target, with one for the stage."""
        tile_k = self.geometry.config.tile_k
        source = cute.local_tile(cute.domain_offset((row, 0), tensor), (loaded, tile_k), (0, None))
        to = cute.local_tile(shared, (loaded, tile_k, self.stages), (row_in_tile // loaded, 0, 0))
        to, source = cpasync.tma_partition(
            tma, 0, cute.make_layout(1), cute.group_modes(to, 0, 2), cute.group_modes(source, 0, 2)
        )
        return source, to

    def _multicast_masks(self, block):
        """Blocks that get a part of X (same rows) and of Y (same columns) from this one, a bit a rank."""
        g = self.geometry
        first = block.rank - block.row_rank - g.cluster_rows * block.column_rank
        same_rows = sum(1 << (g.cluster_rows * other) for other in range(g.cluster_columns))
        same_columns = (1 << g.cluster_rows) - 1
        mask_x = Int16(same_rows << (first + block.row_rank)) if g.cluster_columns > 1 else None
        mask_y = Int16(same_columns << (first + g.cluster_rows * block.column_rank)) if g.cluster_rows > 1 else None
        return mask_x, mask_y

    @cute.jit
    def _load_all_scales(self, block, sources, storage):
        """The producer of scales: into the same stages, in the same order."""
        g, barriers = self.geometry, block.barriers
        stage, phase = Int32(0), Int32(0)
        index = block.cluster
        while index < block.scheduler.tiles:
            tile = block.scheduler.tile(index)
            for step in cutlass.range(block.first_k, block.last_k, unroll=1):
                cute.arch.mbarrier_wait(barriers.empty(stage), phase ^ 1)
                to = storage.scales.data_ptr() + stage * g.stage_scales
                self._load_scales(to, sources, tile, step)
                cute.arch.cp_async_mbarrier_arrive_noinc(barriers.full(stage))
                stage, phase = next_stage(stage, phase, self.stages)
            index += block.clusters

    @cute.jit
    def _load_scales(self, to, sources, tile, step):
        """A scale a token of the tile for one block of k, then the weight blocks', each 4 bytes by a lane."""
        tile_m, piece = self.geometry.config.tile_m, self.geometry.token_piece
        scale_a, scale_b = sources["scale_a"], sources["scale_b"]
        lane = cute.arch.lane_idx()
        for first in cutlass.range_constexpr(0, tile_m, WARP):
            token = tile_row(tile.token, first + lane, piece, cutlass.max)
            inside = token < tile.token + tile.valid_rows
            # An address in bounds even if nothing is read.
            at = (Int64(token) if inside else Int64(0)) * scale_a.stride[0] + Int64(step) * scale_a.stride[1]
            read = Int32(4) if inside else Int32(0)
            if const_expr(first + WARP > tile_m):
                if first + lane < tile_m:
                    ptx.copy_word_async(to + first + lane, scale_a.iterator + at, read)
            else:
                ptx.copy_word_async(to + first + lane, scale_a.iterator + at, read)
        if lane < self.geometry.weight_scales:
            column = tile.feature // BLOCK + lane
            inside = column < scale_b.shape[1]
            at = Int64(step) * scale_b.stride[0] + (Int64(column) if inside else Int64(0)) * scale_b.stride[1]
            ptx.copy_word_async(to + tile_m + lane, scale_b.iterator + at, Int32(4) if inside else Int32(0))

    @cute.jit
    def _consume(self, block, shared_x, shared_y, tma_d, d, layout_d, sources, storage):
        """A consumer warpgroup: accumulate its share of a tile, finish and store it, for one tile after the other."""
        g, barriers = self.geometry, block.barriers
        thread = cute.arch.thread_idx()[0] % WARPGROUP
        group = cute.arch.make_warp_uniform(cute.arch.thread_idx()[0] // WARPGROUP)
        mainloop = Mainloop.of(g, self.element, self.accumulator_type, shared_x, shared_y, barriers, block.rank, group)
        vectors = WarpgroupVectors.of(g, storage.vectors.data_ptr(), sources, group)
        store = SubtileStore.of(g, self.out, tma_d, d, storage.d.data_ptr(), layout_d, group)
        epilogue = Epilogue(
            g, self.out, self.accumulator_type, vectors, store, storage.received.data_ptr(), group, thread
        )
        row_in_tile = Int32(0)
        if const_expr(g.warpgroups_of_tile > 1):
            row_in_tile = group * g.warpgroup_rows
        if const_expr(g.is_overlapped):
            self._consume_overlapped(block, mainloop, vectors, epilogue, row_in_tile)
        else:
            self._consume_in_turn(block, mainloop, vectors, epilogue, row_in_tile, storage)
        store.finish(thread)

    @cute.jit
    def _consume_in_turn(self, block, mainloop, vectors, epilogue, row_in_tile, storage):
        """`_consume` by a warpgroup that stores a tile before it begins the next."""
        g, barriers = self.geometry, block.barriers
        group, thread = epilogue.group, epilogue.thread
        accumulators = mainloop.make_accumulators()
        steps = block.last_k - block.first_k
        stage, phase = Int32(0), Int32(0)
        index, stride, order = block.cluster, block.clusters, Int32(0)
        if const_expr(g.is_pingpong):
            # The other warpgroup's tiles pass through the same stages: jump over them.
            index, stride, order = block.cluster + group * block.clusters, 2 * block.clusters, 1 - group
            if group == 1:
                stage, phase = skip_stages(stage, phase, steps, self.stages)
        leads = Int32(0)
        if const_expr(g.is_staggered):
            # With fewer steps than stages the first warpgroup could be two tiles ahead, and two phases of the barrier.
            follows = group == 1 and steps >= self.stages
            if group == 0 and steps >= self.stages and cute.arch.lane_idx() == 0:
                leads = Int32(1)
        buffer, exchange = Int32(0), Int32(0)

        if const_expr(g.cluster_size > 1 and not self.multicast):
            cute.arch.cluster_wait()

        while index < block.scheduler.tiles:
            tile = block.scheduler.tile(index)
            vectors.fetch(tile, row_in_tile, block.n, thread)
            if const_expr(g.is_pingpong):
                cute.arch.mbarrier_wait(barriers.order(group), order)
                order ^= 1
            if const_expr(g.is_staggered):
                if follows:
                    cute.arch.mbarrier_wait(barriers.order(1), order)
                order ^= 1

            if const_expr(self.blockwise):
                scales = storage.scales.data_ptr()
                coordinates = (row_in_tile, tile.feature % BLOCK, thread)
                stage, phase = mainloop.accumulate_blocks(accumulators, scales, stage, phase, steps, coordinates, leads)
            else:
                stage, phase = mainloop.accumulate(accumulators, stage, phase, steps, leads)

            if const_expr(g.is_pingpong):
                if cute.arch.lane_idx() == 0:
                    cute.arch.mbarrier_arrive(barriers.order(1 - group))
                stage, phase = skip_stages(stage, phase, steps, self.stages)

            index += stride
            if const_expr(self.split > 1):
                epilogue.exchange(accumulators, block, exchange)
            buffer = epilogue.store_tile(accumulators, tile, row_in_tile, buffer, block.split_rank)
            if const_expr(self.split > 1):
                if index < block.scheduler.tiles:
                    epilogue.release(block)
                exchange ^= 1

    @cute.jit
    def _consume_overlapped(self, block, mainloop, vectors, epilogue, row_in_tile):
        """`_consume` by a warpgroup that stores a tile while the next one's first products are being made."""
        g = self.geometry
        accumulators, waiting = mainloop.make_accumulators(), epilogue.make_waiting()
        steps = block.last_k - block.first_k
        stage, phase, buffer = Int32(0), Int32(0), Int32(0)
        is_waiting, token, feature = Int32(0), Int32(0), Int32(0)
        index = block.cluster
        while index < block.scheduler.tiles:
            tile = block.scheduler.tile(index)
            mainloop.begin(accumulators, stage, phase)
            ahead = Int32(0)
            if is_waiting != 0:
                # A subtile a step, if there are as many: buffers empty while the tensor cores go on.
                if steps > g.subtiles:
                    for subtile in cutlass.range_constexpr(g.subtiles):
                        buffer = epilogue.store_waiting(subtile, waiting, token, feature, row_in_tile, buffer)
                        stage, phase = mainloop.next_step(accumulators, stage, phase)
                    ahead = Int32(g.subtiles)
                else:
                    for subtile in cutlass.range_constexpr(g.subtiles):
                        buffer = epilogue.store_waiting(subtile, waiting, token, feature, row_in_tile, buffer)
            # All threads have passed a barrier since they read the vectors of the tile before.
            vectors.fetch(tile, row_in_tile, block.n, epilogue.thread)
            stage, phase = mainloop.go_on(accumulators, stage, phase, steps - ahead, Int32(0))
            epilogue.finish_tile(accumulators, waiting)
            is_waiting, token, feature = Int32(1), tile.token, tile.feature
            index += block.clusters
        if is_waiting != 0:
            for subtile in cutlass.range_constexpr(g.subtiles):
                buffer = epilogue.store_waiting(subtile, waiting, token, feature, row_in_tile, buffer)


def first_rows(layout, tile):
    """The first `tile` rows and columns of the first of a layout's stages or buffers."""
    return cute.composition(cute.slice_(layout, (None, None, 0)), tile)


@cute.jit
def with_row_stride(tensor, divisor):
    """A row-major tensor; a single row, whose stride may be anything, gets one that TMA takes."""
    rows, columns = tensor.shape
    stride = Int64(columns) if rows == 1 else Int64(tensor.stride[0])
    layout = cute.make_layout((rows, columns), stride=(cute.assume(stride, divby=divisor), 1))
    return cute.make_tensor(tensor.iterator, layout)
