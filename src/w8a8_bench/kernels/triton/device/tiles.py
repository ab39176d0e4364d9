"""What both GEMMs share: the order of tiles, loads, products of tiles, the sum over splits of k, and the store.

Layouts: A [m,k] and W [n,k] row-major, W being the weight, so that B of the definitions is W transposed; D [m,n]
row-major. A tile of A is [TILE_M, TILE_K], one of W [TILE_N, TILE_K], and both are k-major in shared memory, which is
what 8-bit warpgroup MMA takes.

SWAP computes the transpose, D^T = W A^T. A warpgroup MMA has 64 rows at least (PTX ISA, wgmma.mma_async) and 8 columns:
with few tokens the weight's rows are those 64, and no tensor core works on rows that do not exist.

DESCRIPTORS: `a` and `w` are tensor descriptors, which TMA reads whole tiles by and which fill with zeros outside.
Otherwise they are pointers, and elements outside are masked; EVEN_K says that k needs no mask.
"""

import triton
import triton.language as tl


@triton.jit
def tile_coordinates(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Row and column of a tile. Tiles go down GROUP rows before they go right: neighbours share W in the L2."""
    width = GROUP * tiles_n
    first = tile // width * GROUP
    rows = tl.minimum(tiles_m - first, GROUP)
    within = tile % width
    return first + within % rows, within // rows


@triton.jit
def row_pointers(matrix, stride, first, rows, ROWS: tl.constexpr, TILE_K: tl.constexpr):
    """Pointers [ROWS, TILE_K] to the first k-tile of rows `first`.., and the mask [ROWS, 1] of rows that exist."""
    row = first + tl.arange(0, ROWS)
    pointers = matrix + row.to(tl.int64)[:, None] * stride + tl.arange(0, TILE_K)[None, :]
    return pointers, (row < rows)[:, None]


@triton.jit
def load_rows(pointers, mask, start, k, TILE_K: tl.constexpr, EVEN_K: tl.constexpr):
    """The k-tile that begins at `start`, zeros outside the matrix."""
    if not EVEN_K:
        mask = mask & (tl.arange(0, TILE_K) < k - start)[None, :]
    return tl.load(pointers + start, mask=mask, other=0.0)


@triton.jit
def sum_splits(acc, tile, split, partials, arrivals, SPLIT_K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write a split's part of a tile; the split that arrives last returns their sum and True, the others False.

    Always added in the order of k, whoever adds them, so that the sum is the same in every run. The last one leaves
    `arrivals` as it found it, zero. Parts are read past the L1, which does not see what other multiprocessors wrote.
    """
    size: tl.constexpr = ROWS * COLUMNS
    at = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    first = partials + tile.to(tl.int64) * (SPLIT_K * size)
    tl.store(first + split * size + at, acc)
    tl.debug_barrier()  # every thread's part is written before one of them announces it
    is_last = tl.atomic_add(arrivals + tile, 1, sem="acq_rel", scope="gpu") == SPLIT_K - 1
    if is_last:
        acc = tl.load(first + at, cache_modifier=".cg")
        for part in tl.static_range(1, SPLIT_K):
            acc += tl.load(first + part * size + at, cache_modifier=".cg")
        tl.store(arrivals + tile, 0)
    return acc, is_last


@triton.jit
def store(
    out, value, stride, tile_m, tile_n, m, n, TILE_M: tl.constexpr, TILE_N: tl.constexpr, DESCRIBED: tl.constexpr
):
    """Round a tile [TILE_M, TILE_N] to the output format and write what of it lies inside D."""
    if DESCRIBED:
        out.store([tile_m * TILE_M, tile_n * TILE_N], value.to(out.dtype))
    else:
        row = tile_m * TILE_M + tl.arange(0, TILE_M)
        column = tile_n * TILE_N + tl.arange(0, TILE_N)
        inside = (row < m)[:, None] & (column < n)[None, :]
        pointers = out + row.to(tl.int64)[:, None] * stride + column[None, :]
        tl.store(pointers, value.to(out.dtype.element_ty), mask=inside)
