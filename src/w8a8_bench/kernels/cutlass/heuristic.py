"""Which configuration is taken for a problem.

`choose` looks into the table of tuned choices (`tuned`) and falls back to the least predicted time over the portfolio
(`configs`). A prediction is the slower of memory, L2 and tensor cores over the waves that a tile size makes, plus what
a launch, a tile's epilogue and an exchange cost. Every term grows with m, so the least of them does: no m is predicted
faster for having more tokens, which is what a cliff would be.

Rates are per clock of a multiprocessor, times in clocks unless they say otherwise. They are those of an H200; on
another Hopper the ratios hold.
"""

from __future__ import annotations

from w8a8_bench.kernels.cutlass import tuned
from w8a8_bench.kernels.cutlass.configs import legal, portfolio, why_illegal, why_unsupported
from w8a8_bench.kernels.cutlass.geometry import INSTRUCTION_K, INSTRUCTION_ROWS, Geometry, Occupancy, TileConfig
from w8a8_bench.kernels.cutlass.variant import Variant
from w8a8_bench.problem import Problem, ceil_div

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


def resident_clusters(g: Geometry, gpu: Occupancy) -> int:
    """Clusters that run at one time."""
    return max(1, gpu.resident(g.cluster_size) * g.blocks_of_sm)


def predicted_s(config: TileConfig, problem: Problem, gpu: Occupancy) -> float:
    """Seconds that the model gives a legal configuration, weights cold in the L2."""
    g, shape = Geometry(config, Variant.of(problem)), problem.shape
    along_m = ceil_div(ceil_div(shape.m, config.tile_m), config.cluster[0])
    along_n = ceil_div(ceil_div(shape.n, config.tile_n), config.cluster[1])
    clusters = along_m * along_n
    resident = min(clusters, resident_clusters(g, gpu))
    waves = ceil_div(clusters, resident)

    # One tile of one block. Blocks on one multiprocessor share it.
    blocks_of_sm = ceil_div(resident * g.cluster_size, gpu.sm_count)
    l2_rate = min(L2_RATE, L2_TOTAL_RATE / min(gpu.sm_count, resident * g.cluster_size))
    steps = ceil_div(ceil_div(shape.k, config.split_k), INSTRUCTION_K)
    instructions = g.rows // INSTRUCTION_ROWS
    multiply = instructions * INSTRUCTION_ROWS * g.columns * INSTRUCTION_K * 2 / OPERATIONS
    operands = (g.rows + g.columns) * INSTRUCTION_K
    shared = (instructions * (INSTRUCTION_ROWS + g.columns) * INSTRUCTION_K + operands) / SHARED_RATE
    loaded = (g.rows / g.cluster_columns + g.columns / g.cluster_rows) * INSTRUCTION_K / l2_rate
    loaded += g.rows_outside(shape.m) * OUTSIDE * INSTRUCTION_K / 128
    if g.variant.blockwise:
        multiply *= PROMOTION
    longest, *others = sorted((multiply, shared, loaded), reverse=True)
    step = (longest + SHADOW * sum(others)) * blocks_of_sm
    end = TILE_END * (0.25 if g.is_pingpong or g.is_staggered else 1.0) * g.accumulators / 128 * blocks_of_sm
    end += EXCHANGE if config.split_k > 1 else 0.0
    compute_s = (waves * (steps * step + end) + FILL) / CLOCK_HZ

    # All of memory: every input once and the output, no faster than the weights in flight allow.
    size = shape.m * shape.k + shape.n * shape.k + 2 * shape.m * shape.n
    streams = min(along_n, resident_clusters(g, gpu)) * config.cluster[1] * config.split_k
    rate = min(MEMORY_RATE, streams * config.stages * config.tile_n * config.tile_k / LATENCY_S)
    slower, faster = sorted((size / rate, compute_s), reverse=True)
    return LAUNCH_S + slower + EXPOSED * faster


def choose(problem: Problem, gpu: Occupancy) -> TileConfig:
    """The configuration to take. Raises ValueError if none is legal, with the reason."""
    variant, shape = Variant.of(problem), problem.shape
    if reason := why_unsupported(variant, shape):
        raise ValueError(reason)
    found = tuned.lookup(variant, shape, gpu.sm_count)
    if found is not None and why_illegal(found, variant, shape) is None:
        return found
    return predicted_best(problem, gpu)


def predicted_best(problem: Problem, gpu: Occupancy) -> TileConfig:
    """What the heuristic takes for a problem that it supports."""
    options = [config for config in portfolio(Variant.of(problem)) if legal(config, problem)]
    return min(options, key=lambda config: predicted_s(config, problem, gpu))
