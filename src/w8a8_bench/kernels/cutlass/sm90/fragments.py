"""Rows and columns of a thread's accumulators, and where `stmatrix` writes them: whole-number arithmetic.

Python's integers and the CuTe DSL's go through the same lines, so that tests see what the device computes. `lane` is a
thread's index in its warp, `warp` the warp's in its warpgroup.
"""

from __future__ import annotations

from typing import Any

from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_ROWS
from w8a8_bench.problem import BLOCK


def accumulator_index(columns: int, row_block: int, eight: int, j: int, i: int) -> int:
    """Index of a thread's accumulator: row 64 row_block + `accumulator_row`, column 8 eight + `accumulator_column`."""
    return row_block * (columns // 2) + 4 * eight + 2 * j + i


def accumulator_row(warp: Any, lane: Any) -> Any:
    """Row of the accumulators with j = 0; those with j = 1 lie 8 rows below (PTX ISA, wgmma.m64nNk32, fragment D)."""
    return 16 * warp + lane // 4


def accumulator_column(lane: Any) -> Any:
    """Column of the accumulators with i = 0; those with i = 1 lie in the next."""
    return 2 * (lane % 4)


def weight_block(first_feature: Any, group: int, group_features: int) -> Any:
    """Which of a tile's blocks of 128 features a group of neighbouring columns lies in. The tile begins at
    `first_feature` of its first block, and so does the first group, whatever that is."""
    return (first_feature + group * group_features) // BLOCK if group else 0


def matrix_row_bytes(lane: Any, warp: Any, first_eight: int, subtile_columns: int, *, swap: bool) -> Any:
    """Byte address, from the start of a subtile's buffer, of the matrix row that `lane` gives to `stmatrix`.

    Four matrices go at once: rows 0..7 and 8..15 of the warp in columns of `first_eight`, then in the next eight
    columns (with 8 columns in all, the last two are not stored). Unswapped the buffer is [64 rows][subtile_columns],
    each row in 16-byte chunks that TMA's swizzle of the row's width permutes; swapped it is [subtile_columns][64 rows].
    """
    matrix, row = lane // 8, lane % 8
    half, eight = matrix % 2, first_eight + matrix // 2
    if swap:
        chunk = 2 * warp + half
        return (8 * eight + row) * 2 * INSTRUCTION_ROWS + (chunk ^ row) * 16
    row = 16 * warp + 8 * half + row
    width = 2 * subtile_columns
    # A swizzle of 2^b chunks exclusive-ors a chunk's index with the b lowest bits of its 128-byte line.
    swizzled = eight ^ (row * width // 128 % (width // 16))
    return row * width + swizzled * 16
