"""D = cast(sum_kb s_a[m, kb] * s_b[kb, n // 128] * (A W^T over the 128 of k in block kb)): FP8, promoted every block.

The tensor cores' sum of a block is scaled and added to an fp32 tile in registers, so that their short accumulator never
holds more than 128 products. A tile has at most 128 columns, which lie in one block of the weight, whose scale is then
one number: it multiplies the rows' scales, and the tile is scaled once.

s_a [m, ceil(k/128)] and s_b [ceil(k/128), ceil(n/128)] in fp32, with any strides. The rest is as in `scaled_mm`.
"""

import triton
import triton.language as tl

from w8a8_bench.kernels.triton.device import tiles

BLOCK = tl.constexpr(128)


@triton.jit
def blockwise_mm(
    a,
    w,
    out,
    scale_a,
    scale_b,
    partials,
    arrivals,
    m,
    n,
    k,
    stride_a,
    stride_w,
    stride_out,
    stride_scale_a_m,
    stride_scale_a_k,
    stride_scale_b_k,
    stride_scale_b_n,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    GROUP: tl.constexpr,
    SPLIT_K: tl.constexpr,
    SWAP: tl.constexpr,
    PERSISTENT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    DESCRIBED_OUT: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    tiles_m, tiles_n, blocks_k = tl.cdiv(m, TILE_M), tl.cdiv(n, TILE_N), tl.cdiv(k, BLOCK)
    if PERSISTENT:
        for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
            tile_m, tile_n = tiles.tile_coordinates(tile, tiles_m, tiles_n, GROUP)
            acc = _product(
                a, w, scale_a, scale_b, m, n, k, stride_a, stride_w,
                stride_scale_a_m, stride_scale_a_k, stride_scale_b_k, stride_scale_b_n,
                tile_m, tile_n, 0, blocks_k, TILE_M, TILE_N, SWAP, DESCRIPTORS, EVEN_K,
            )  # fmt: skip
            tiles.store(out, acc, stride_out, tile_m, tile_n, m, n, TILE_M, TILE_N, DESCRIBED_OUT)
    else:
        program = tl.program_id(0)
        tile, split = program // SPLIT_K, program % SPLIT_K
        tile_m, tile_n = tiles.tile_coordinates(tile, tiles_m, tiles_n, GROUP)
        length = tl.cdiv(blocks_k, SPLIT_K)
        acc = _product(
            a, w, scale_a, scale_b, m, n, k, stride_a, stride_w,
            stride_scale_a_m, stride_scale_a_k, stride_scale_b_k, stride_scale_b_n,
            tile_m, tile_n, split * length, tl.minimum(blocks_k, (split + 1) * length),
            TILE_M, TILE_N, SWAP, DESCRIPTORS, EVEN_K,
        )  # fmt: skip
        is_last = True
        if SPLIT_K > 1:
            acc, is_last = tiles.sum_splits(acc, tile, split, partials, arrivals, SPLIT_K, TILE_M, TILE_N)
        if is_last:
            tiles.store(out, acc, stride_out, tile_m, tile_n, m, n, TILE_M, TILE_N, DESCRIBED_OUT)


@triton.jit
def _product(
    a,
    w,
    scale_a,
    scale_b,
    m,
    n,
    k,
    stride_a,
    stride_w,
    stride_scale_a_m,
    stride_scale_a_k,
    stride_scale_b_k,
    stride_scale_b_n,
    tile_m,
    tile_n,
    first,
    end,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    SWAP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """[TILE_M, TILE_N] of the scaled product over the blocks `first` to `end`."""
    acc = tl.zeros((TILE_N, TILE_M) if SWAP else (TILE_M, TILE_N), dtype=tl.float32)
    if not DESCRIPTORS:
        a_pointers, a_mask = tiles.row_pointers(a, stride_a, tile_m * TILE_M, m, TILE_M, BLOCK)
        w_pointers, w_mask = tiles.row_pointers(w, stride_w, tile_n * TILE_N, n, TILE_N, BLOCK)
    row = tile_m * TILE_M + tl.arange(0, TILE_M)
    row_scales = scale_a + row.to(tl.int64) * stride_scale_a_m
    column_scales = scale_b + tile_n * TILE_N // BLOCK * stride_scale_b_n
    # A block ahead: they are wanted as soon as the block's sum is there, and come from memory later than that.
    next_a = tl.load(row_scales + first * stride_scale_a_k, mask=(row < m) & (first < end), other=0.0)
    next_b = tl.load(column_scales + first * stride_scale_b_k, mask=first < end, other=0.0)
    for block in tl.range(first, end):
        scale = next_a * next_b
        ahead = block + 1
        next_a = tl.load(row_scales + ahead * stride_scale_a_k, mask=(row < m) & (ahead < end), other=0.0)
        next_b = tl.load(column_scales + ahead * stride_scale_b_k, mask=ahead < end, other=0.0)
        if DESCRIPTORS:
            a_tile = a.load([tile_m * TILE_M, block * BLOCK])
            w_tile = w.load([tile_n * TILE_N, block * BLOCK])
        else:
            a_tile = tiles.load_rows(a_pointers, a_mask, block * BLOCK, k, BLOCK, EVEN_K)
            w_tile = tiles.load_rows(w_pointers, w_mask, block * BLOCK, k, BLOCK, EVEN_K)
        if SWAP:
            acc += tl.dot(w_tile, a_tile.T) * scale[None, :]
        else:
            acc += tl.dot(a_tile, w_tile.T) * scale[:, None]
    return acc.T if SWAP else acc
