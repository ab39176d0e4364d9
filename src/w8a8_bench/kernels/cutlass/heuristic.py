"""Which configuration is taken for a problem.

`choose` looks into the table of tuned choices (`tuned`) and falls back to the least predicted time over the portfolio
(`configs`). A prediction is the slower of memory, L2 and tensor cores over the waves that a tile size makes, plus what
a launch, a tile's end and an exchange cost, times what a configuration took over this where it was measured. Rates
and factors were fitted to times on an H200, for few tokens and for more (`fitted`). Every term grows with m, so the
least of them does: no m is predicted faster for having more tokens, which is what a cliff would be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from w8a8_bench.kernels.cutlass import fitted, tuned
from w8a8_bench.kernels.cutlass.configs import (
    factors,
    why_illegal,
    why_too_split,
    why_unsupported,
)
from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_K, INSTRUCTION_ROWS, Geometry, Occupancy, TileConfig
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem import Problem

CLOCK_HZ = 1.7e9
"""What rates a clock are counted in. The GPU's own clock varies with the load."""

OUTSIDE = 8.0
"""Clocks in which TMA fills a row of 128 bytes with zeros that lies outside the matrix, after all that it loads."""

OPERATIONS_OF_E = 1e11
"""Operations of a GEMM from which on the clock falls."""

FAR = 4
"""A cluster whose tiles have so many times the tokens that there are is never the best."""

BAND = 12
"""Clusters along m that are computed as one band: 9 to 12 of them in bands of 8 and the rest took 2% longer."""


def resident_clusters(g: Geometry, gpu: Occupancy) -> int:
    """Clusters that run at one time."""
    return max(1, gpu.resident(g.cluster_size) * g.blocks_of_sm)


class Costs(NamedTuple):
    """What the model needs to know of a configuration on a GPU, so that a prediction is a few sums. All is unpacked at
    once, and rounded up without a call, since a choice predicts dozens.

    tokens, features    of a cluster's tiles
    split_k             blocks that share a tile's k
    resident            clusters that run at one time
    cluster_size        blocks of one
    fixed               clocks of a step of 32 along k that are the same at any load: of its longest part,
    beside              and the share of all parts that is not hidden
    loaded              bytes of a step from the L2
    end                 clocks of a tile's end, and `exchange` of a split's
    in_flight           bytes of weights that a cluster has under way
    piece, pieces       tokens of a tile's piece, and how many can lie outside the matrix
    """

    config: TileConfig
    tokens: int
    features: int
    split_k: int
    resident: int
    cluster_size: int
    sm_count: int
    fixed: float
    beside: float
    loaded: float
    end: float
    exchange: float
    in_flight: int
    piece: int
    pieces: int
    l2: float
    l2_total: float
    memory: float
    latency_s: float
    fill: float
    launch_s: float
    exposed: float
    shadow: float
    factor: float

    @classmethod
    def of(cls, config: TileConfig, variant: Variant, gpu: Occupancy, rates: fitted.Rates, factor: float) -> Costs:
        g = Geometry(config, variant)
        instructions = g.rows // INSTRUCTION_ROWS
        multiply = instructions * INSTRUCTION_ROWS * g.columns * INSTRUCTION_K * 2 / rates.operations
        operands = (g.rows + g.columns) * INSTRUCTION_K
        shared = (instructions * (INSTRUCTION_ROWS + g.columns) * INSTRUCTION_K + operands) / rates.shared
        awaited = rates.latency / ((config.stages - 1) * config.tile_k / INSTRUCTION_K)
        return cls(
            config,
            tokens=config.tile_m * config.cluster[0],
            features=config.tile_n * config.cluster[1],
            split_k=config.split_k,
            resident=resident_clusters(g, gpu),
            cluster_size=g.cluster_size,
            sm_count=gpu.sm_count,
            fixed=max(multiply, shared, awaited),
            beside=rates.shadow * (multiply + shared),
            loaded=(g.rows / g.cluster_columns + g.columns / g.cluster_rows) * INSTRUCTION_K,
            end=getattr(rates, config.schedule.value) * g.accumulators / 128,
            exchange=rates.exchange if config.split_k > 1 else 0.0,
            in_flight=config.cluster[1] * config.split_k * config.stages * config.tile_n * config.tile_k,
            piece=g.token_piece,
            pieces=0 if g.token_piece == config.tile_m else config.tile_m // g.token_piece,
            l2=rates.l2,
            l2_total=rates.l2_total,
            memory=rates.memory * gpu.memory_bandwidth / fitted.MEMORY_BANDWIDTH,
            latency_s=rates.latency_s,
            fill=rates.fill,
            launch_s=rates.launch_s,
            exposed=rates.exposed,
            shadow=rates.shadow,
            factor=factor,
        )

    def seconds(self, m: int, n: int, k: int, slower: float) -> float:
        """Seconds that the model gives a legal configuration, weights cold in the L2, if computing takes `slower` times
        as long as under little load."""
        _, tokens, features, split, most, cluster_size, sm_count, fixed, beside, loaded, end, *others = self
        exchange, in_flight, piece, pieces, l2, l2_total, memory, latency_s, fill, launch_s, *rest = others
        exposed, shadow, factor = rest
        along_n = -(-n // features)
        clusters = -(-m // tokens) * along_n
        resident = clusters if clusters < most else most
        blocks = resident * cluster_size

        # One tile of one block. Blocks on one multiprocessor share it.
        blocks_of_sm = -(-blocks // sm_count)
        rate = l2_total / (blocks if blocks < sm_count else sm_count)
        loading = loaded / (rate if rate < l2 else l2)
        if piece > m:
            loading += pieces * (piece - m) * OUTSIDE * INSTRUCTION_K / 128
        longest = fixed if fixed > loading else loading
        step = longest * (1 - shadow) + beside + shadow * loading
        tile = (-(-k // (split * INSTRUCTION_K)) * step + end) * blocks_of_sm + exchange
        compute_s = (-(-clusters // resident) * tile + fill) * slower / CLOCK_HZ

        # All of memory: every input once and the output, no faster than the weights in flight allow.
        rate = (along_n if along_n < most else most) * in_flight / latency_s
        memory_s = (m * k + n * k + 2 * m * n) / (rate if rate < memory else memory)
        if memory_s > compute_s:
            return factor * (launch_s + memory_s + exposed * compute_s)
        return factor * (launch_s + compute_s + exposed * memory_s)


@cache
def costs(
    variant: Variant, gpu: Occupancy, few: bool, options: Callable[[Variant], tuple[TileConfig, ...]] | None = None
) -> tuple[Costs, ...]:
    """Of every one of the `options`, in their order; without, of those that the heuristic chooses from."""
    rates, known = fitted.of(variant, few=few).rates, factors(variant, few=few)
    configs = options(variant) if options else known
    return tuple(Costs.of(config, variant, gpu, rates, known.get(config, 1.0)) for config in configs)


def slower(rates: fitted.Rates, m: int, n: int, k: int) -> float:
    """How many times as long computing takes as under little load."""
    return 1 + rates.power * math.log1p(2 * m * n * k / OPERATIONS_OF_E)


def choose(problem: Problem, gpu: Occupancy) -> TileConfig:
    """The configuration to take. Raises ValueError if none is legal, with the reason."""
    variant, shape = Variant.of(problem), problem.shape
    if reason := why_unsupported(shape):
        raise ValueError(reason)
    found = tuned.lookup(variant, shape, gpu)
    if found is not None and why_illegal(found, variant, shape) is None:
        return found
    return predicted_best(problem, gpu)


def predicted_best(problem: Problem, gpu: Occupancy) -> TileConfig:
    """What the heuristic takes for a problem that it supports."""
    m, n, k = problem.m, problem.n, problem.k
    variant, few = Variant.of(problem), m <= fitted.FEW
    most, load = FAR * max(m, 16), slower(fitted.of(variant, few=few).rates, m, n, k)
    least, best = math.inf, None
    for one in costs(variant, gpu, few):
        if one.tokens <= most and (one.split_k == 1 or why_too_split(one.config, k) is None):
            seconds = one.seconds(m, n, k, load)
            if seconds < least:
                least, best = seconds, one
    assert best is not None, "a portfolio has tiles for any shape"
    is_one_band = best.config.raster < -(-m // best.tokens) <= BAND
    return replace(best.config, raster=BAND) if is_one_band else best.config
