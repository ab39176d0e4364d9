"""The arithmetic that the CUTLASS kernels share with tests: order of tiles, split of k, coordinates of accumulators."""

from __future__ import annotations

import itertools

import pytest

from w8a8_bench.kernels.cutlass import configs
from w8a8_bench.kernels.cutlass.geometry import Geometry, TileConfig
from w8a8_bench.kernels.cutlass.sm90.fragments import (
    accumulator_column,
    accumulator_index,
    accumulator_row,
    matrix_row_bytes,
    weight_block,
)
from w8a8_bench.kernels.cutlass.sm90.tile_order import k_range, tile_at, tile_begin, tile_row
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem import BLOCK
from w8a8_bench.problem.formats import Format

FP8 = Variant(format=Format.FP8, out=Format.BF16)
LANES, WARPS = range(32), range(4)


@pytest.mark.parametrize(("tiles_m", "tiles_n"), [(1, 64), (64, 1), (7, 5), (8, 3), (9, 16), (33, 2)])
@pytest.mark.parametrize("raster", [1, 4, 8, 16])
def test_every_tile_is_computed_once(tiles_m, tiles_n, raster):
    order = [tile_at(index, tiles_m, tiles_n, raster) for index in range(tiles_m * tiles_n)]
    assert sorted(order) == list(itertools.product(range(tiles_m), range(tiles_n)))


@pytest.mark.parametrize(("tile", "piece"), [(8, 8), (32, 16), (64, 32), (96, 32), (128, 64), (256, 128)])
@pytest.mark.parametrize("size", [1, 5, 16, 17, 31, 63, 64, 65, 127, 129, 300])
def test_tiles_cover_a_matrix_and_keep_inside_it_but_for_less_than_a_piece(tile, piece, size):
    begins = [tile_begin(index, tile, size) for index in range(-(-size // tile) + 1)]  # one more: a cluster's rest
    rows = [[tile_row(begin, row, piece) for row in range(tile)] for begin in begins]
    assert set(range(size)) <= {row for of_tile in rows for row in of_tile}
    for of_tile in rows:
        assert min(of_tile) >= 0 and max(of_tile) < max(size, piece)
        assert all(of_tile[at] + 1 == of_tile[at + 1] for at in range(tile - 1) if (at + 1) % piece)


@pytest.mark.parametrize(("tile_m", "m", "outside"), [(16, 1, 0), (64, 40, 0), (64, 20, 24), (128, 33, 62)])
def test_rows_outside_are_those_that_no_piece_finds_room_for(tile_m, m, outside):
    tile = TileConfig(tile_m=tile_m, tile_n=64, swap=True, stages=2)
    g = Geometry(tile, Variant(format=Format.FP8, out=Format.BF16))
    assert g.rows_outside(m) == outside
    begin = tile_begin(0, tile_m, m)
    beyond = sum(tile_row(begin, row, g.token_piece) >= m for row in range(tile_m))
    assert beyond == (outside or max(g.token_piece - m, 0))


def test_tiles_in_flight_share_operands():
    order = [tile_at(index, 64, 64, 8) for index in range(132)]
    assert len({along_m for along_m, _ in order}) == 8
    assert len({along_n for _, along_n in order}) == 17


@pytest.mark.parametrize(("tiles_k", "split"), [(1, 1), (2, 2), (57, 4), (8, 8), (57, 8), (13, 3)])
def test_a_split_covers_k_without_gap_and_leaves_no_block_idle(tiles_k, split):
    ranges = [k_range(rank, tiles_k, split) for rank in range(split)]
    assert [step for first, last in ranges for step in range(first, last)] == list(range(tiles_k))
    sizes = [last - first for first, last in ranges]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def held(columns: int, row_blocks: int) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Which thread holds each element of a warpgroup's tile, and at which index of its registers."""
    registers = {}
    for warp, lane, row_block, eight, j, i in itertools.product(
        WARPS, LANES, range(row_blocks), range(columns // 8), range(2), range(2)
    ):
        row = 64 * row_block + accumulator_row(warp, lane) + 8 * j
        column = 8 * eight + accumulator_column(lane) + i
        index = accumulator_index(columns, row_block, eight, j, i)
        assert (row, column) not in registers
        registers[row, column] = (warp, lane, index)
    return registers


@pytest.mark.parametrize(("columns", "row_blocks"), [(8, 1), (24, 1), (64, 2), (256, 1)])
def test_every_element_of_a_tile_is_in_one_register_of_one_thread(columns, row_blocks):
    places = held(columns, row_blocks)
    assert sorted(places) == list(itertools.product(range(64 * row_blocks), range(columns)))
    registers = {(warp, lane) for warp, lane, _ in places.values()}
    assert len(registers) == 128
    assert sorted({index for _, _, index in places.values()}) == list(range(row_blocks * columns // 2))


def stmatrix(subtile_columns: int, *, swap: bool) -> dict[int, tuple[int, int]]:
    """Which element (row, column) of a subtile each 2-byte place of its buffer gets, by what PTX says of stmatrix."""
    places = held(subtile_columns, 1)
    by_register = {place: element for element, place in places.items()}
    buffer = {}
    for warp, eight in itertools.product(WARPS, range(0, subtile_columns // 8, 2)):
        for matrix in range(min(4, subtile_columns // 4 - 2 * eight)):
            for row, position in itertools.product(range(8), range(8)):
                # The 8x8 matrix's element (r, c) is half c % 2 of a register of lane 4 r + c / 2.
                r, c = (position, row) if swap else (row, position)
                index = accumulator_index(subtile_columns, 0, eight + matrix // 2, matrix % 2, c % 2)
                element = by_register[warp, 4 * r + c // 2, index]
                address = matrix_row_bytes(8 * matrix + row, warp, eight, subtile_columns, swap=swap) + 2 * position
                assert address not in buffer
                buffer[address] = element
    return buffer


def swizzled(address: int, width_bytes: int) -> int:
    """TMA's swizzle of rows of 32, 64 or 128 bytes: 16-byte chunks change places by the 128-byte line they are in."""
    return address ^ (((address >> 7) & (width_bytes // 16 - 1)) << 4)


@pytest.mark.parametrize("subtile_columns", [8, 16, 32])
@pytest.mark.parametrize("swap", [False, True])
def test_what_stmatrix_lays_out_is_the_box_that_tma_stores(subtile_columns, swap):
    buffer = stmatrix(subtile_columns, swap=swap)
    inner, outer = (64, subtile_columns) if swap else (subtile_columns, 64)
    expected = {}
    for line, place in itertools.product(range(outer), range(inner)):
        expected[swizzled(2 * (line * inner + place), 2 * inner)] = (place, line) if swap else (line, place)
    assert buffer == expected


@pytest.mark.parametrize("swap", [False, True])
def test_stmatrix_meets_no_bank_twice(swap):
    for warp in WARPS:
        for matrix in range(4):
            rows = [matrix_row_bytes(8 * matrix + row, warp, 0, 32, swap=swap) for row in range(8)]
            assert len({address % 128 // 16 for address in rows}) == 8


def test_every_column_finds_the_scale_of_its_weights_block():
    widths = range(8, 257, 8)
    tiles = [TileConfig(tile_m=64, tile_n=width, stages=2) for width in widths]
    geometries = [Geometry(tile, Variant(format=Format.FP8, out=Format.BF16, blockwise=True)) for tile in tiles]
    served = [g for g in geometries if g.weight_scales <= 2]
    assert {48, 64, 96, 128, 160, 192} <= {g.columns for g in served}
    for g, number in itertools.product(served, range(16)):
        first = number * g.columns
        for eight in range(g.columns // 8):
            block = weight_block(first % BLOCK, 8 * eight // g.scale_features, g.scale_features)
            assert first // BLOCK + block == (first + 8 * eight) // BLOCK == (first + 8 * eight + 7) // BLOCK
            assert block < g.weight_scales


def geometries() -> list[Geometry]:
    variants = (FP8, Variant(format=Format.FP8, out=Format.BF16, blockwise=True))
    return [Geometry(tile, variant) for variant in variants for tile in configs.portfolio(variant)]


def test_subtiles_make_up_a_warpgroups_share_and_have_owners():
    for g in geometries():
        assert g.subtiles * g.subtile_columns * 64 == g.warpgroup_rows * g.columns
        assert 2 * g.subtile_values * 128 == g.subtile_bytes
        split = g.config.split_k
        owned = [len(range(rank, g.subtiles, split)) for rank in range(split)]
        assert sum(owned) == g.subtiles
        assert sum(1 for subtiles in owned if subtiles) == g.owners
        if split > 1:
            assert max(owned) == g.received_subtiles
            # What `Epilogue.exchange` tells the barrier to expect, from all others, at the block that owns most.
            assert g.received_bytes == (split - 1) * max(owned) * 64 * g.subtile_columns * 4
            assert g.received_bytes < 1 << 20  # more than a barrier counts


def test_stages_fill_shared_memory_but_for_less_than_one():
    for g in geometries():
        more = Geometry(TileConfig(**{**vars(g.config), "stages": g.config.stages + 1}), g.variant)
        assert more.blocks_of_sm < g.blocks_of_sm or more.shared_bytes > 227 * 1024


def test_barriers_of_a_stage_expect_what_tma_brings():
    for g in geometries():
        assert g.stage_bytes == (g.config.tile_m + g.config.tile_n) * g.config.tile_k < 1 << 20
