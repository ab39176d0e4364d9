"""Which configurations are legal, and which are worth trying: a portfolio, and many more for tuning."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

from w8a8_bench.kernels.cutlass import fitted
from w8a8_bench.kernels.cutlass.geometry import (
    LEAD,
    MAX_CLUSTER,
    MAX_STAGES,
    SHARED_BYTES,
    Geometry,
    Schedule,
    TileConfig,
)
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem import BLOCK, GemmShape, Problem, ceil_div
from w8a8_bench.problem.formats import Format

ALIGNMENT = 16
"""n and k are multiples of it: TMA reads rows of 16-byte units, and 8-bit elements make 16 of them."""

OTHER_REGISTERS = 40
"""Beside accumulators and scales: measured on what compiles, 9 to 34 over all variants, and some room."""

BLOCKWISE_SPLIT_REGISTERS = 40
"""More of these, if a blockwise kernel splits k."""


def why_illegal(config: TileConfig, variant: Variant, shape: GemmShape | None = None) -> str | None:
    """The reason why `config` can't compute `variant`, or `shape` with it; None if it can."""
    g = Geometry(config, variant)
    return _illegal_tile(g) or _illegal_sharing(g) or _illegal_size(g) or (_illegal_shape(g, shape) if shape else None)


def legal(config: TileConfig, problem: Problem) -> bool:
    return why_illegal(config, Variant.of(problem), problem.shape) is None


def _illegal_tile(g: Geometry) -> str | None:
    config = g.config
    columns = "a multiple of 8" if g.variant.format is Format.FP8 else "8, 24 or a multiple of 16"
    if g.rows not in (64, 128, 256) or (g.is_pingpong and g.rows == 256):
        return f"{g.rows} rows of the instruction: expected 64 or 128, and 256 for two cooperating warpgroups"
    if not 8 <= g.columns <= 256 or g.columns % 8 or (g.variant.format is Format.INT8 and not _int8_columns(g.columns)):
        return f"{g.columns} columns: {g.variant.format.value} instructions take {columns}, up to 256"
    if config.tile_k not in (128, 256):
        return f"tile_k={config.tile_k}: expected 128 or 256, whole lines of the 128-byte swizzle"
    if not 2 <= config.stages <= MAX_STAGES:
        # One stage would wait for itself: a step's instructions are in flight while the next is waited for.
        return f"stages={config.stages}: expected 2 to {MAX_STAGES}"
    if config.raster < 1:
        return f"raster={config.raster}: expected at least 1"
    if g.variant.blockwise and config.tile_k != BLOCK:
        return f"tile_k={config.tile_k}: blockwise scales change every {BLOCK}"
    if g.variant.blockwise and g.weight_scales > (1 if config.swap else 2):
        return f"tile_n={config.tile_n}: a blockwise tile lies in two blocks of {BLOCK} at most, swapped in one"
    return None


def _int8_columns(columns: int) -> bool:
    """PTX ISA, wgmma shapes: .s8 takes n = 8, 24 and multiples of 16."""
    return columns in (8, 24) or columns % 16 == 0


def _illegal_sharing(g: Geometry) -> str | None:
    config = g.config
    if min(*config.cluster, config.split_k) < 1 or g.cluster_size > MAX_CLUSTER:
        return f"cluster {config.cluster} x split {config.split_k}: expected 1 to {MAX_CLUSTER} blocks"
    for extent, sharing in ((g.rows, g.cluster_columns), (g.columns, g.cluster_rows)):
        if extent % (8 * sharing):
            return f"cluster {config.cluster}: {extent} rows of an operand are not {sharing} times a multiple of 8"
    if config.split_k > 1 and g.is_pingpong:
        return "split_k with ping-pong: the two warpgroups' tiles would exchange one after the other"
    if g.is_staggered and (config.split_k > 1 or g.warpgroups < 2 or config.stages <= LEAD):
        return f"staggered: expected two warpgroups, no split_k, and more than {LEAD} stages"
    if g.is_overlapped and (config.split_k > 1 or g.warpgroups < 2 or g.variant.blockwise):
        return "overlapped: expected two warpgroups, no split_k, and no blockwise scales"
    return None


def _illegal_size(g: Geometry) -> str | None:
    config = g.config
    if g.shared_bytes > SHARED_BYTES:
        return f"{g.shared_bytes} bytes of shared memory: at most {SHARED_BYTES}"
    registers = g.held_registers + OTHER_REGISTERS
    if g.variant.blockwise and config.split_k > 1:
        registers += BLOCKWISE_SPLIT_REGISTERS
    if registers > g.register_limit:
        return f"about {registers} registers a thread: {g.threads} threads may have {g.register_limit}"
    return None


def _illegal_shape(g: Geometry, shape: GemmShape) -> str | None:
    return why_unsupported(shape) or why_too_split(g.config, shape.k)


def why_unsupported(shape: GemmShape) -> str | None:
    """The reason why no configuration computes a shape; None if one does."""
    for name, size in (("n", shape.n), ("k", shape.k)):
        if size % ALIGNMENT:
            return f"{name}={size} is not a multiple of {ALIGNMENT}, which TMA needs for 8-bit operands"
    return None


def why_too_split(config: TileConfig, k: int) -> str | None:
    """The reason why blocks of a split would have nothing to do; None if all have."""
    tiles = ceil_div(k, config.tile_k)
    return f"split_k={config.split_k}: k={k} has {tiles} tiles of {config.tile_k}" if config.split_k > tiles else None


def fill(config: TileConfig, variant: Variant, blocks_of_sm: int = 1) -> TileConfig:
    """`config` with as many stages as leave room for `blocks_of_sm` blocks; unchanged if even two do not fit."""
    for stages in range(MAX_STAGES, 1, -1):
        filled = replace(config, stages=stages)
        g = Geometry(filled, variant)
        if g.shared_bytes <= SHARED_BYTES and g.blocks_of_sm >= blocks_of_sm:
            return filled
    return config


@cache
def factors(variant: Variant, *, few: bool) -> dict[TileConfig, float]:
    """The configurations that the heuristic chooses from, and their factors (`fitted.Tile`)."""
    found = {}
    for tile in fitted.of(variant, few=few).tiles:
        config = fill(tile.config, variant, tile.blocks_of_sm)
        if why_illegal(config, variant) is None:
            found[config] = tile.factor
    return found


@cache
def portfolio(variant: Variant) -> tuple[TileConfig, ...]:
    """All configurations that the heuristic chooses from."""
    return tuple(dict.fromkeys([*factors(variant, few=True), *factors(variant, few=False)]))


@cache
def tilings(variant: Variant) -> tuple[TileConfig, ...]:
    """Every tile that may be worth measuring, of which the portfolio is a choice: more widths, splits and clusters."""
    widths = (*range(16, 128, 16), *range(128, 257, 32), 8, 24, 40, 144, 176, 208, 240)
    few = itertools.product(widths, (64, 128, 256), (128, 256), (1, 2, 4, 8), (True,), ((1, 1), (2, 1), (1, 2)))
    many = itertools.product((64, 128, 256), widths, (128,), (1, 2, 4), (False,), ((1, 1), (2, 1), (1, 2)))
    found: dict[TileConfig, None] = {}
    for tile_m, tile_n, tile_k, split, swap, cluster in itertools.chain(few, many):
        for schedule, blocks_of_sm in itertools.product(Schedule, (1, 2) if swap else (1,)):
            config = TileConfig(
                tile_m=tile_m,
                tile_n=tile_n,
                tile_k=tile_k,
                swap=swap,
                cluster=cluster,
                split_k=split,
                stages=2,
                schedule=schedule,
            )
            config = fill(config, variant, blocks_of_sm)
            if why_illegal(config, variant) is None:
                found[config] = None
    return tuple(found)
