"""Which configuration is taken for a problem.

`choose` looks into the table of tuned choices (`tuned`) and falls back to the least predicted time over the portfolio
(`configs`). A prediction is the slower of memory, L2 and tensor cores over the waves that a tile size makes, plus what
a launch, a tile's epilogue and an exchange cost. Every term grows with m, so the least of them does: no m is predicted
faster for having more tokens, which is what a cliff would be.

Rates are per clock of a multiprocessor, times in clocks unless they say otherwise. They are those of an H200; on
another Hopper the ratios hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from w8a8_bench.kernels.cutlass import tuned
from w8a8_bench.kernels.cutlass.configs import portfolio, why_illegal, why_too_split, why_unsupported
from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_K, INSTRUCTION_ROWS, Geometry, Occupancy, TileConfig
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem import Problem

CLOCK_HZ = 1.7e9
"""Under load."""

OPERATIONS = 8000
"""8-bit multiply-adds counted as two: 8192 by the H100 architecture whitepaper, less what the 700 W cap takes of it in
large GEMMs (1,500 TFLOP/s are the best that any library reaches)."""

SHARED_RATE = 165.0
"""Bytes of shared memory, read by the tensor core or written by TMA."""

L2_RATE, L2_TOTAL_RATE = 66.0, 7400.0
"""Bytes from the L2, of one multiprocessor and of all together. Tiles of 64x128 and 64x64 at n=4096, k=14336 took 63
bytes a clock each on 32 and 64 multiprocessors, and 51 on 128."""

OUTSIDE = 8.0
"""Clocks in which TMA fills a row of 128 bytes with zeros that lies outside the matrix, after all that it loads."""

MEMORY_RATE = 4.4e12
"""Bytes a second from memory, measured by copy."""

LATENCY_S = 0.5e-6
"""From a load to its data with memory under load: what is in flight over it bounds a multiprocessor's rate."""

LAUNCH_S = 2.5e-6
"""What a kernel that only reads takes beside the time of its bytes (8.4 to 117 MB)."""

EXPOSED = 0.16
"""Share of the faster of memory and multiprocessors that the slower one does not hide."""

FILL = 1400.0
"""Until a block's first tile is in flight, and its last accumulators are stored."""

TILE_END = 650.0
"""Accumulators to memory, while the tensor cores rest if warpgroups cooperate; the other schedules hide most of it."""

EXCHANGE = 1400.0
"""Pushing partial accumulators to their owners and adding them."""

SHADOW = 0.05
"""Share of what a step does beside its longest part that the longest does not hide."""

PROMOTION = 1.12
"""How much longer a blockwise step takes, whose scaled additions the next step's products don't hide altogether."""


FAR = 4
"""A cluster whose tiles have so many times the tokens that there are is never the best."""


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
    multiply, shared    clocks of a step of 32 along k: of the tensor cores, and of shared memory
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
    multiply: float
    shared: float
    loaded: float
    end: float
    exchange: float
    in_flight: int
    piece: int
    pieces: int

    @classmethod
    def of(cls, config: TileConfig, variant: Variant, gpu: Occupancy) -> Costs:
        g = Geometry(config, variant)
        instructions = g.rows // INSTRUCTION_ROWS
        multiply = instructions * INSTRUCTION_ROWS * g.columns * INSTRUCTION_K * 2 / OPERATIONS
        operands = (g.rows + g.columns) * INSTRUCTION_K
        hides_end = g.is_pingpong or g.is_staggered
        return cls(
            config,
            tokens=config.tile_m * config.cluster[0],
            features=config.tile_n * config.cluster[1],
            split_k=config.split_k,
            resident=resident_clusters(g, gpu),
            cluster_size=g.cluster_size,
            sm_count=gpu.sm_count,
            multiply=multiply * (PROMOTION if variant.blockwise else 1.0),
            shared=(instructions * (INSTRUCTION_ROWS + g.columns) * INSTRUCTION_K + operands) / SHARED_RATE,
            loaded=(g.rows / g.cluster_columns + g.columns / g.cluster_rows) * INSTRUCTION_K,
            end=TILE_END * (0.25 if hides_end else 1.0) * g.accumulators / 128,
            exchange=EXCHANGE if config.split_k > 1 else 0.0,
            in_flight=config.cluster[1] * config.split_k * config.stages * config.tile_n * config.tile_k,
            piece=g.token_piece,
            pieces=0 if g.token_piece == config.tile_m else config.tile_m // g.token_piece,
        )

    def seconds(self, m: int, n: int, k: int) -> float:
        """Seconds that the model gives a legal configuration, weights cold in the L2."""
        _, tokens, features, split, most, cluster_size, sm_count, multiply, shared, loaded, *others = self
        end, exchange, in_flight, piece, pieces = others
        along_n = -(-n // features)
        clusters = -(-m // tokens) * along_n
        resident = clusters if clusters < most else most
        blocks = resident * cluster_size

        # One tile of one block. Blocks on one multiprocessor share it.
        blocks_of_sm = -(-blocks // sm_count)
        l2_rate = L2_TOTAL_RATE / (blocks if blocks < sm_count else sm_count)
        loaded /= l2_rate if l2_rate < L2_RATE else L2_RATE
        if piece > m:
            loaded += pieces * (piece - m) * OUTSIDE * INSTRUCTION_K / 128
        longest = max(multiply, shared, loaded)
        step = (longest + SHADOW * (multiply + shared + loaded - longest)) * blocks_of_sm
        steps = -(-k // (split * INSTRUCTION_K))
        tile = steps * step + end * blocks_of_sm + exchange
        compute_s = (-(-clusters // resident) * tile + FILL) / CLOCK_HZ

        # All of memory: every input once and the output, no faster than the weights in flight allow.
        rate = (along_n if along_n < most else most) * in_flight / LATENCY_S
        memory_s = (m * k + n * k + 2 * m * n) / (rate if rate < MEMORY_RATE else MEMORY_RATE)
        if memory_s > compute_s:
            return LAUNCH_S + memory_s + EXPOSED * compute_s
        return LAUNCH_S + compute_s + EXPOSED * memory_s


@cache
def costs(
    variant: Variant, gpu: Occupancy, options: Callable[[Variant], tuple[TileConfig, ...]] = portfolio
) -> tuple[Costs, ...]:
    """Of every one of the `options`, in their order."""
    return tuple(Costs.of(config, variant, gpu) for config in options(variant))


def predicted_s(config: TileConfig, problem: Problem, gpu: Occupancy) -> float:
    """Seconds that the model gives a legal configuration, weights cold in the L2."""
    return Costs.of(config, Variant.of(problem), gpu).seconds(problem.m, problem.n, problem.k)


def choose(problem: Problem, gpu: Occupancy) -> TileConfig:
    """The configuration to take. Raises ValueError if none is legal, with the reason."""
    variant, shape = Variant.of(problem), problem.shape
    if reason := why_unsupported(shape):
        raise ValueError(reason)
    found = tuned.lookup(variant, shape, gpu.sm_count)
    if found is not None and why_illegal(found, variant, shape) is None:
        return found
    return predicted_best(problem, gpu)


def predicted_best(problem: Problem, gpu: Occupancy) -> TileConfig:
    """What the heuristic takes for a problem that it supports."""
    m, n, k = problem.m, problem.n, problem.k
    most = FAR * max(m, 16)
    options = [one for one in costs(Variant.of(problem), gpu) if one.tokens <= most]
    fit = [one for one in options if one.split_k == 1 or why_too_split(one.config, k) is None]
    return min(fit, key=lambda one: one.seconds(m, n, k)).config
