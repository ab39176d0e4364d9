"""A tile configuration, and what follows from it: threads, stages, shared memory, which warpgroup owns what.

Plain arithmetic, shared by the heuristic, the device code and the tests; nothing here needs the CuTe DSL or a GPU.

The tensor core's instruction has 64 rows. Rows of a tile are tokens (m) and columns output features (n), or, if the
configuration swaps the operands, rows are features and columns tokens: D^T = B^T A^T. A column count may be as small as
8, so that a few tokens need no padding to 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from w8a8_bench.kernels.cutlass.variant import Per, Variant
from w8a8_bench.problem import BLOCK, ceil_div

INSTRUCTION_ROWS = 64
INSTRUCTION_K = 32
WARPGROUP = 128
WARP = 32

SHARED_BYTES = 227 * 1024
"""Shared memory that one thread block may have on compute capability 9.0 (CUDA C++ programming guide, table 30)."""

SHARED_BYTES_OF_SM = 228 * 1024
RESERVED_SHARED_BYTES = 1024
"""Of a multiprocessor, and what the driver takes of it for each resident block (the same table)."""

REGISTERS_OF_SM = 65536
PRODUCER_REGISTERS, CONSUMER_REGISTERS = 40, 232
"""Registers of a thread, if the producers' warpgroup gives some of its own to two of consumers: 3 x 168 in all."""

LEAD = 2
"""Stages that the first warpgroup of a staggered tile has multiplied, or is multiplying, when the second begins. Alone
on the tensor cores, the second takes 512 clocks for each of the two (64x256x128); a tile's end takes about 2,500."""

MAX_CLUSTER = 8
"""Largest portable cluster (CUDA C++ programming guide, thread block clusters)."""

MAX_STAGES = 24
"""More than fill the latency of memory only fill shared memory."""


class Schedule(str, Enum):
    """How consumer warpgroups share work: rows of one tile between them, or a tile each, one computing while the other
    stores. A tile of 64 rows has one warpgroup, which is `cooperative` with itself.

    Staggered, they share a tile's rows, and the second follows the first by `LEAD` stages: the tensor cores, which one
    warpgroup alone can keep busy, go on while the other stores. It gains 1 to 2% with blocks, and nothing without
    (H200): a large tile's end takes longer than the stages. Ping-pong hides it whole, with tiles half as large.

    Overlapped, they share a tile's rows too, and keep what they computed in registers, as elements of D, until the next
    tile's first products are being made: they store in the shadow of those.
    """

    COOPERATIVE = "cooperative"
    PINGPONG = "pingpong"
    STAGGERED = "staggered"
    OVERLAPPED = "overlapped"


@dataclass(frozen=True, kw_only=True)
class TileConfig:
    """One way to compute a GEMM; `configs.why_illegal` says which make sense.

    tile_m, tile_n, tile_k  tokens, output features and input features of a tile
    swap       features lie on the instruction's rows
    cluster    thread blocks that share loads, along m and along n
    split_k    thread blocks of a cluster that share a tile's k, and add through distributed shared memory
    stages     tiles of A and B in flight
    raster     tiles along m that are computed before the next along n; 1 goes along n first
    """

    tile_m: int
    tile_n: int
    tile_k: int = 128
    swap: bool = False
    cluster: tuple[int, int] = (1, 1)
    split_k: int = 1
    stages: int
    schedule: Schedule = Schedule.COOPERATIVE
    raster: int = 8

    def to_json(self) -> dict[str, object]:
        return {
            "tile": f"{self.tile_m}x{self.tile_n}x{self.tile_k}",
            "swap": self.swap,
            "cluster": f"{self.cluster[0]}x{self.cluster[1]}",
            "split_k": self.split_k,
            "stages": self.stages,
            "schedule": self.schedule.value,
            "raster": self.raster,
        }


@dataclass(frozen=True)
class Geometry:
    """What a configuration and a variant make of a thread block."""

    config: TileConfig
    variant: Variant

    # The tile, as the instruction sees it.

    @property
    def rows(self) -> int:
        return self.config.tile_n if self.config.swap else self.config.tile_m

    @property
    def columns(self) -> int:
        return self.config.tile_m if self.config.swap else self.config.tile_n

    @property
    def cluster_rows(self) -> int:
        """Blocks of a cluster along the tile's rows; they load the same columns' operand."""
        return self.config.cluster[1 if self.config.swap else 0]

    @property
    def cluster_columns(self) -> int:
        return self.config.cluster[0 if self.config.swap else 1]

    @property
    def cluster_size(self) -> int:
        return self.cluster_rows * self.cluster_columns * self.config.split_k

    # Warps.

    @property
    def is_pingpong(self) -> bool:
        return self.config.schedule is Schedule.PINGPONG

    @property
    def is_staggered(self) -> bool:
        return self.config.schedule is Schedule.STAGGERED

    @property
    def is_overlapped(self) -> bool:
        return self.config.schedule is Schedule.OVERLAPPED

    @property
    def warpgroups(self) -> int:
        """Consumer warpgroups of a block."""
        return 2 if self.is_pingpong or self.rows >= 2 * INSTRUCTION_ROWS else 1

    @property
    def warpgroups_of_tile(self) -> int:
        """Warpgroups that consume one stage."""
        return 1 if self.is_pingpong else self.warpgroups

    @property
    def warpgroup_rows(self) -> int:
        return self.rows // self.warpgroups_of_tile

    @property
    def row_blocks(self) -> int:
        """Instructions of 64 rows that one warpgroup issues for each step of k."""
        return self.warpgroup_rows // INSTRUCTION_ROWS

    @property
    def threads(self) -> int:
        """Consumer warpgroups', then producer warps': a whole warpgroup if it gives registers to the consumers."""
        producers = WARPGROUP if self.reallocates_registers else WARP * (2 if self.variant.blockwise else 1)
        return self.warpgroups * WARPGROUP + producers

    @property
    def accumulators(self) -> int:
        """Accumulators of a thread: registers that hold its elements of the tile."""
        return self.row_blocks * self.columns // 2

    @property
    def product_sets(self) -> int:
        """Sets of `accumulators` of a blockwise kernel for the products of one block of k.

        With two, one is scaled while the other is made. If tokens are columns, their scales need registers too.
        """
        if not self.variant.blockwise:
            return 0
        return 2 if self.accumulators <= (32 if self.config.swap else 64) else 1

    @property
    def held_registers(self) -> int:
        """Registers of a thread that hold what it computes, at the most: accumulators, the products of a block of k,
        and elements of D, two a register, of a tile that is still to be stored."""
        waiting = self.accumulators // 2 if self.is_overlapped else 0
        return (1 + self.product_sets) * self.accumulators + waiting

    @property
    def reallocates_registers(self) -> bool:
        """Whether the producers' warpgroup gives registers to the consumers, which need more than an equal share."""
        more = self.is_overlapped or self.product_sets > 0
        return more and self.warpgroups == 2 and self.held_registers > 128

    @property
    def register_limit(self) -> int:
        """Registers of a consumer thread, if one block has the multiprocessor to itself.

        A multiprocessor has four parts, over which it deals out warps.
        """
        if self.reallocates_registers:
            return CONSUMER_REGISTERS
        warps_of_part = ceil_div(self.threads, 4 * WARP)
        return min(255, REGISTERS_OF_SM // (4 * WARP * warps_of_part) // 8 * 8)

    # Pieces, by which `tile_order.tile_row` keeps a tile's rows inside the matrix, and how much of one is loaded at
    # once: blocks of a cluster that need the same rows load a share each.

    @property
    def token_piece(self) -> int:
        """Tokens of a piece: a power of two, at most half the tile. As few as 16 are loaded in the shadow of the
        weights, wherever they lie."""
        tile = self.config.tile_m
        return tile if tile <= 16 else math.gcd(tile, 2 ** int(math.log2(tile // 2)))

    def rows_outside(self, m: int) -> int:
        """Rows of a tile that no shift of its pieces brings inside a matrix of `m` tokens."""
        piece = self.token_piece
        return 0 if piece == self.config.tile_m else self.config.tile_m // piece * max(piece - m, 0)

    @property
    def loaded_tokens(self) -> int:
        return math.gcd(self.token_piece, self.config.tile_m // self.config.cluster[1])

    @property
    def loaded_features(self) -> int:
        return self.config.tile_n // self.config.cluster[0]

    # Stages.

    @property
    def stage_bytes(self) -> int:
        """Both operands' tiles: what one full barrier waits for."""
        return (self.rows + self.columns) * self.config.tile_k

    @property
    def stage_scales(self) -> int:
        """fp32 numbers of a stage of a blockwise kernel: a scale a token, then the weight blocks'; whole 16 bytes."""
        return self.config.tile_m + 4 if self.variant.blockwise else 0

    @property
    def scale_features(self) -> int:
        """Neighbouring features of a tile that have one weight scale, wherever the tile begins."""
        return math.gcd(self.config.tile_n, BLOCK)

    @property
    def weight_scales(self) -> int:
        """Blocks of 128 features that a tile may lie in."""
        last_begin = BLOCK - self.scale_features
        return ceil_div(last_begin + self.config.tile_n, BLOCK)

    # Epilogue: a warpgroup writes its rows in subtiles of 64 rows by `subtile_columns` columns.

    @cached_property
    def subtile_columns(self) -> int:
        widest = self.columns // self.config.split_k if self.columns >= 8 * self.config.split_k else 8
        whole = self.token_piece if self.config.swap else self.columns
        return next(width for width in (32, 16, 8) if width <= widest and whole % width == 0)

    @property
    def stored_rows(self) -> int:
        """Rows of a subtile that are stored at once: those of a piece."""
        return INSTRUCTION_ROWS if self.config.swap else min(INSTRUCTION_ROWS, self.token_piece)

    @property
    def subtiles_of_row_block(self) -> int:
        return self.columns // self.subtile_columns

    @property
    def subtiles(self) -> int:
        """Parts of one warpgroup's share of a tile."""
        return self.row_blocks * self.subtiles_of_row_block

    @property
    def subtile_values(self) -> int:
        """Accumulators of one thread in one subtile."""
        return self.subtile_columns // 2

    @property
    def subtile_bytes(self) -> int:
        return INSTRUCTION_ROWS * self.subtile_columns * 2

    @cached_property
    def store_buffers(self) -> int:
        """Buffers of a warpgroup for subtiles on their way to global memory: up to four, as shared memory allows."""
        return next((count for count in (4, 3) if self._shared_bytes(count) <= SHARED_BYTES), 2)

    # Split k: the block of rank p % split_k owns subtile p, and adds its accumulators in the order of the ranks.

    @property
    def owners(self) -> int:
        """Blocks of a split that own a subtile."""
        return min(self.config.split_k, self.subtiles)

    @property
    def received_subtiles(self) -> int:
        """Parts that the block which owns most receives from each other block of its split."""
        return ceil_div(self.subtiles, self.config.split_k) if self.config.split_k > 1 else 0

    @property
    def received_bytes(self) -> int:
        """Of one warpgroup."""
        return (self.config.split_k - 1) * self.received_subtiles * WARPGROUP * self.subtile_values * 4

    # Vectors of the epilogue in shared memory, in 32-bit words of one warpgroup.

    @property
    def features(self) -> int:
        """Output features that one warpgroup holds."""
        return self.warpgroup_rows if self.config.swap else self.columns

    @property
    def tokens(self) -> int:
        return self.columns if self.config.swap else self.warpgroup_rows

    @cached_property
    def vector_words(self) -> dict[str, int]:
        """Names and sizes, in the order in which they lie; each begins on 16 bytes."""
        sizes = {Per.TOKEN: self.tokens, Per.FEATURE: self.features}
        return {vector.name: sizes[vector.per] // vector.elements_of_word for vector in self.variant.vectors}

    @property
    def vector_words_total(self) -> int:
        return sum(self.vector_words.values())

    # Shared memory.

    @property
    def barriers(self) -> int:
        """Full and empty of each stage; of each warpgroup its order, and full and empty of partial accumulators."""
        return 2 * self.config.stages + 3 * self.warpgroups

    def _shared_bytes(self, store_buffers: int) -> int:
        size = self.config.stages * self.stage_bytes + self.warpgroups * store_buffers * self.subtile_bytes
        for words in (self.received_bytes // 4, self.vector_words_total):
            size += max(16, 4 * self.warpgroups * words)
        size += max(16, 4 * self.config.stages * self.stage_scales) + 8 * self.barriers
        return ceil_div(size, 1024) * 1024

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block, as the structure in `gemm` lays it out."""
        return self._shared_bytes(self.store_buffers)

    @property
    def blocks_of_sm(self) -> int:
        """Blocks that one multiprocessor holds at once, as far as shared memory decides."""
        return max(1, SHARED_BYTES_OF_SM // (self.shared_bytes + RESERVED_SHARED_BYTES))


CLUSTER_SIZES = (2, 4, 8)
"""Blocks of a cluster."""


@dataclass(frozen=True)
class Occupancy:
    """Of a GPU, one block on each multiprocessor: how many clusters of each of `CLUSTER_SIZES` run at one time.

    With its name, and the nominal bytes a second of its memory: an H100 has as many multiprocessors as an H200.
    """

    sm_count: int
    clusters: tuple[int, ...]
    name: str
    memory_bandwidth: float

    @classmethod
    def assumed(cls, sm_count: int, name: str = "NVIDIA H200", memory_bandwidth: float = 4.8e12) -> Occupancy:
        """For a GPU that can't be asked: GPCs of 16 multiprocessors and a rest."""
        in_gpcs = sm_count // 16 * 16
        clusters = tuple((sm_count if size == 2 else in_gpcs) // size for size in CLUSTER_SIZES)
        return cls(sm_count, clusters, name, memory_bandwidth)

    def resident(self, size: int) -> int:
        """Clusters of `size` blocks that run at one time; of a size between two that are known, what is sure."""
        if size == 1:
            return self.sm_count
        return next(count for known, count in zip(CLUSTER_SIZES, self.clusters, strict=True) if size <= known)
