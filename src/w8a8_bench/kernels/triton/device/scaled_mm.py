"""D = cast(s_a * s_b * (A W^T - correction) + bias): int8 with an int32 accumulator, FP8 with an fp32 one.

s_a is one number or [m], s_b one number or [n], fp32. `azp_adj` int32 [n] and `azp` int32 [m] are the correction of a
zero point: `azp_adj` alone per tensor, their product per token, subtracted in int32. `bias` [n] has D's format. Those
that a problem lacks are None, and no code is made for them.

A program computes a tile, or SPLIT_K programs do, a stretch of k each (`tiles.sum_splits`); PERSISTENT programs go from
tile to tile, so that the loads of the next one run under the stores of the last.
"""

import triton
import triton.language as tl

from w8a8_bench.kernels.triton.device import tiles


@triton.jit
def scaled_mm(
    a,
    w,
    out,
    scale_a,
    scale_b,
    bias,
    azp,
    azp_adj,
    partials,
    arrivals,
    m,
    n,
    k,
    stride_a,
    stride_w,
    stride_out,
    INT8: tl.constexpr,
    SCALE_A_BY_ROW: tl.constexpr,
    SCALE_B_BY_COLUMN: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    GROUP: tl.constexpr,
    SPLIT_K: tl.constexpr,
    SWAP: tl.constexpr,
    PERSISTENT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    DESCRIBED_OUT: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    tiles_m, tiles_n, tiles_k = tl.cdiv(m, TILE_M), tl.cdiv(n, TILE_N), tl.cdiv(k, TILE_K)
    if PERSISTENT:
        for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
            tile_m, tile_n = tiles.tile_coordinates(tile, tiles_m, tiles_n, GROUP)
            acc = _product(
                a, w, m, n, k, stride_a, stride_w, tile_m, tile_n, 0, tiles_k,
                INT8, TILE_M, TILE_N, TILE_K, SWAP, DESCRIPTORS, EVEN_K,
            )  # fmt: skip
            row, column = tile_m * TILE_M + tl.arange(0, TILE_M), tile_n * TILE_N + tl.arange(0, TILE_N)
            value = _epilogue(
                acc,
                _of_each(scale_a, row, m, SCALE_A_BY_ROW),
                _of_each(scale_b, column, n, SCALE_B_BY_COLUMN),
                None if bias is None else _of_each(bias, column, n),
                None if azp is None else _of_each(azp, row, m),
                None if azp_adj is None else _of_each(azp_adj, column, n),
                SCALE_A_BY_ROW,
                SCALE_B_BY_COLUMN,
            )
            tiles.store(out, value, stride_out, tile_m, tile_n, m, n, TILE_M, TILE_N, DESCRIBED_OUT)
    else:
        program = tl.program_id(0)
        tile, split = program // SPLIT_K, program % SPLIT_K
        tile_m, tile_n = tiles.tile_coordinates(tile, tiles_m, tiles_n, GROUP)
        length = tl.cdiv(tiles_k, SPLIT_K)
        first, end = split * length, tl.minimum(tiles_k, (split + 1) * length)
        # Loaded before the products, not after: they come from memory, and few products take no longer than that.
        row, column = tile_m * TILE_M + tl.arange(0, TILE_M), tile_n * TILE_N + tl.arange(0, TILE_N)
        of_rows = _of_each(scale_a, row, m, SCALE_A_BY_ROW)
        of_columns = _of_each(scale_b, column, n, SCALE_B_BY_COLUMN)
        biases = None if bias is None else _of_each(bias, column, n)
        zero_points = None if azp is None else _of_each(azp, row, m)
        adjustments = None if azp_adj is None else _of_each(azp_adj, column, n)
        acc = _product(
            a, w, m, n, k, stride_a, stride_w, tile_m, tile_n, first, end,
            INT8, TILE_M, TILE_N, TILE_K, SWAP, DESCRIPTORS, EVEN_K,
        )  # fmt: skip
        is_last = True
        if SPLIT_K > 1:
            acc, is_last = tiles.sum_splits(acc, tile, split, partials, arrivals, SPLIT_K, TILE_M, TILE_N)
        if is_last:
            value = _epilogue(
                acc, of_rows, of_columns, biases, zero_points, adjustments, SCALE_A_BY_ROW, SCALE_B_BY_COLUMN
            )
            tiles.store(out, value, stride_out, tile_m, tile_n, m, n, TILE_M, TILE_N, DESCRIBED_OUT)


@triton.jit
def _product(
    a,
    w,
    m,
    n,
    k,
    stride_a,
    stride_w,
    tile_m,
    tile_n,
    first,
    end,
    INT8: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    SWAP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """[TILE_M, TILE_N] of A W^T over the k-tiles `first` to `end`."""
    accumulator: tl.constexpr = tl.int32 if INT8 else tl.float32
    acc = tl.zeros((TILE_N, TILE_M) if SWAP else (TILE_M, TILE_N), dtype=accumulator)
    if not DESCRIPTORS:
        a_pointers, a_mask = tiles.row_pointers(a, stride_a, tile_m * TILE_M, m, TILE_M, TILE_K)
        w_pointers, w_mask = tiles.row_pointers(w, stride_w, tile_n * TILE_N, n, TILE_N, TILE_K)
    for step in tl.range(first, end):
        if DESCRIPTORS:
            a_tile = a.load([tile_m * TILE_M, step * TILE_K])
            w_tile = w.load([tile_n * TILE_N, step * TILE_K])
        else:
            a_tile = tiles.load_rows(a_pointers, a_mask, step * TILE_K, k, TILE_K, EVEN_K)
            w_tile = tiles.load_rows(w_pointers, w_mask, step * TILE_K, k, TILE_K, EVEN_K)
        if SWAP:
            acc = tl.dot(w_tile, a_tile.T, acc, out_dtype=accumulator)
        else:
            acc = tl.dot(a_tile, w_tile.T, acc, out_dtype=accumulator)
    return acc.T if SWAP else acc


@triton.jit
def _of_each(data, index, size, BY_INDEX: tl.constexpr = True):
    """Elements of a vector, 0 beyond its end, or the one number that there is."""
    if BY_INDEX:
        return tl.load(data + index, mask=index < size, other=0)
    else:
        return tl.load(data)


@triton.jit
def _epilogue(
    acc,
    scale_a,
    scale_b,
    bias,
    azp,
    azp_adj,
    SCALE_A_BY_ROW: tl.constexpr,
    SCALE_B_BY_COLUMN: tl.constexpr,
):
    """Correction, scales and bias of a tile, in fp32, from those of its rows and columns."""
    if azp_adj is not None:
        correction = azp_adj[None, :]
        if azp is not None:
            correction = azp[:, None] * correction
        acc -= correction
    value = acc.to(tl.float32)
    value *= scale_a[:, None] if SCALE_A_BY_ROW else scale_a
    value *= scale_b[None, :] if SCALE_B_BY_COLUMN else scale_b
    if bias is not None:
        value += bias.to(tl.float32)[None, :]
    return value
