"""How a GEMM is cut into tiles: what is legal, what is worth trying, and what is taken.

`choose` takes a configuration that was tuned for the shape on a GPU of the same name, else the best of `candidates`,
which are ordered by a model of the time. It measures nothing: `scripts/tune_triton.py` does.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from w8a8_bench import cache
from w8a8_bench.environment.architecture import TMA_SINCE, tensor_cores_since
from w8a8_bench.environment.device import dotted
from w8a8_bench.kernel import Support
from w8a8_bench.problem import BLOCK, GemmShape, ceil_div
from w8a8_bench.problem.formats import Format

INT8_SINCE = (8, 0)
"""First compute capability that Triton multiplies int8 on."""

ALIGNMENT_BYTES = 16
"""Of the start and of every row of what a tensor descriptor describes (CUDA driver API, cuTensorMapEncodeTiled)."""

SHARED_BYTES = {(8, 0): 166912, (8, 6): 101376, (8, 7): 166912, (8, 9): 101376, (9, 0): 232448, (10, 0): 232448}
"""Shared memory that one program may have (CUDA C++ programming guide, technical specifications)."""
SHARED_BYTES_ELSEWHERE = 101376
"""The least of them: right, if not best, on what the table does not name."""

MMA_ROWS = 64
"""Rows of the MMAs that read from shared memory: wgmma on Hopper, tcgen05 on Blackwell, where int8 has it only since
Triton 3.8. A tile with fewer rows is multiplied warp by warp, FP8 on Hopper as 16-bit numbers."""

ACCUMULATORS = 128
"""Most accumulators of a thread: with more, ptxas spills. Half as many if warps multiply by themselves, since they hold
operands in registers too; half as many blockwise, since a second set holds the sum of the current block; and at most
half if splits are added, since what is added is another set."""

FP8_ACCUMULATION = "fast"
"""In the tensor cores' own accumulator from a program's first product to its last: what Triton does unless told
otherwise, and what CUTLASS does in vLLM, so that the two are compared at the same work. On Hopper, where that
accumulator is short, the other way is to promote to fp32 every so often, as blockwise products do: it takes a second
set of accumulators, and so tiles of half the size."""

TABLE = "h200.json"


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """One way to cut a GEMM.

    tile_m, tile_n, tile_k   rows of A, rows of the weight, and elements of k that a program works on at a time
    group                    rows of tiles that are done before the next column of tiles begins
    warps, stages            of a program: its warps, and the k-tiles that it holds in shared memory
    split_k                  programs that share a tile, each with a stretch of k
    swap                     the transpose is computed: the weight's rows are those of the tensor core
    persistent               as many programs as multiprocessors, each going from tile to tile
    descriptors              A, the weight and, unless swapped, D go through tensor descriptors (TMA)
    """

    tile_m: int
    tile_n: int
    tile_k: int
    group: int = 8
    warps: int = 4
    stages: int = 3
    split_k: int = 1
    swap: bool = False
    persistent: bool = False
    descriptors: bool = False

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """What a configuration is chosen for. `aligned`: A and the weight are such that a tensor descriptor takes them."""

    shape: GemmShape
    format: Format
    blockwise: bool
    capability: tuple[int, int]
    sm_count: int
    aligned: bool


@dataclass(frozen=True)
class ChosenConfig:
    """A configuration and where it is from: `table`, `estimate`, or how and when it was timed on this machine."""

    config: TritonConfig
    source: str


def why_unsupported(fmt: Format, capability: tuple[int, int]) -> str | None:
    """The reason why a GPU can't run these kernels on `fmt` operands, or None if it can."""
    since = INT8_SINCE if fmt is Format.INT8 else tensor_cores_since(fmt)
    if capability >= since:
        return None
    return f"{fmt.value} needs compute capability {dotted(since)} or newer in Triton, and this is {dotted(capability)}"


def legal(config: TritonConfig, gemm: Gemm) -> Support:
    """Whether the kernels are right and compile without spills for this configuration, or the reason why not."""
    for name in ("tile_m", "tile_n", "tile_k", "warps"):
        value = getattr(config, name)
        if value < 1 or value & (value - 1):
            return Support.no(f"{name}={value} is not a power of two")
    if config.tile_m < 16 or config.tile_n < 16 or config.tile_k < 32:
        return Support.no(f"a tile of {config.tile_m} x {config.tile_n} x {config.tile_k} is below 16 x 16 x 32")
    if config.group < 1 or config.split_k < 1 or config.stages < 2:
        return Support.no(
            f"group={config.group}, split_k={config.split_k}, stages={config.stages}: expected at least 1, 1 and 2"
        )
    if gemm.blockwise and config.tile_n > BLOCK:
        return Support.no(f"tile_n={config.tile_n}: a tile lies in one block of the weight, which has {BLOCK} columns")
    if gemm.blockwise and config.tile_k != BLOCK:
        return Support.no(f"tile_k={config.tile_k}: blockwise scales are applied every {BLOCK} of k")
    if config.descriptors and gemm.capability < TMA_SINCE:
        return Support.no(f"tensor descriptors need compute capability 9.0, and this is {dotted(gemm.capability)}")
    if config.descriptors and not gemm.aligned:
        return Support.no(f"tensor descriptors need rows of a multiple of {ALIGNMENT_BYTES} bytes: k={gemm.shape.k}")
    if config.split_k > 1 and config.persistent:
        return Support.no("persistent programs do not split k")
    if config.split_k > ceil_div(gemm.shape.k, config.tile_k):
        return Support.no(f"split_k={config.split_k}: k={gemm.shape.k} has fewer tiles of {config.tile_k}")
    most = ACCUMULATORS // (1 if has_wide_mma(gemm) else 2) // (2 if gemm.blockwise else 1)
    if config.split_k > 1:
        most = min(most, ACCUMULATORS // 2)
    if accumulators(config) > most:
        return Support.no(f"{accumulators(config)} accumulators a thread: more than {most} spill")
    limit = shared_limit(gemm.capability)
    if shared_bytes(config) > limit:
        return Support.no(f"{shared_bytes(config)} bytes of shared memory: this GPU has {limit} for a program")
    return Support.yes()


def has_wide_mma(gemm: Gemm) -> bool:
    """Whether Triton multiplies tiles of `MMA_ROWS` rows and more by MMAs that read from shared memory."""
    major, _ = gemm.capability
    return major == 9 or (major == 10 and gemm.format is Format.FP8)


def accumulators(config: TritonConfig) -> int:
    """Elements of the tile that a thread holds."""
    return config.tile_m * config.tile_n // (32 * config.warps)


def shared_bytes(config: TritonConfig) -> int:
    """Shared memory that Triton takes at most, barriers included: the stages, and D's tile if it is staged.

    The tile of D takes the place of the stages, which are done with, unless the next tile's are loaded meanwhile.
    """
    stages = config.stages * (config.tile_m + config.tile_n) * config.tile_k
    staged = 2 * config.tile_m * config.tile_n
    if config.persistent:
        return stages + staged + 2048
    return max(stages, 2 * staged) + 2048


def shared_limit(capability: tuple[int, int]) -> int:
    return SHARED_BYTES.get(capability, SHARED_BYTES_ELSEWHERE)


def candidates(gemm: Gemm) -> list[TritonConfig]:
    """All configurations worth measuring for `gemm`, legal ones alone, the most promising first."""
    return sorted(dict.fromkeys(_grid(gemm)), key=lambda config: estimate_s(config, gemm))


@lru_cache(maxsize=4096)
def choose(gemm: Gemm, gpu: str) -> ChosenConfig:
    """What was tuned for this shape: on this machine (`keep`), else in the table, for a GPU of this name. If nothing
    was, the most promising by estimate."""
    return _kept(gemm, gpu) or _tabled(gemm, gpu) or ChosenConfig(candidates(gemm)[0], "estimate")


def keep(gemm: Gemm, gpu: str, config: TritonConfig, *, tried: int) -> bool:
    """Keep the fastest of `tried` configurations in the cache, for every later process; whether that was possible."""
    timed = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return cache.write(_choice_path(gemm, gpu), {"config": config.to_json(), "timed": timed, "tried": tried})


def _kept(gemm: Gemm, gpu: str) -> ChosenConfig | None:
    try:
        kept = msgspec.convert(cache.read(_choice_path(gemm, gpu)), _Kept)
    except msgspec.ValidationError:  # there is none, or it is damaged
        return None
    source = f"fastest of {kept.tried}, timed cold in replayed graphs at {kept.timed}"
    return ChosenConfig(kept.config, source) if legal(kept.config, gemm) else None


class _Kept(msgspec.Struct):
    config: TritonConfig
    timed: str
    tried: int


def _choice_path(gemm: Gemm, gpu: str) -> Path:
    return cache.path_of("choices", "triton", importlib.metadata.version("triton"), sources(), gpu, gemm)


@lru_cache
def sources() -> str:
    """The state of the kernels' source, and of what launches them."""
    files = sorted(Path(__file__).parent.glob("**/*.py"))
    return cache.digest(*(file.read_bytes() for file in files))


def _tabled(gemm: Gemm, gpu: str) -> ChosenConfig | None:
    for row in _table().get(gpu, ()):
        same = (row["format"], row["blockwise"]) == (gemm.format.value, gemm.blockwise)
        if same and GemmShape(m=row["m"], n=row["n"], k=row["k"]) == gemm.shape:
            config = TritonConfig(**row["config"])
            if legal(config, gemm):
                return ChosenConfig(config, "table")
    return None


def estimate_s(config: TritonConfig, gemm: Gemm) -> float:
    """Seconds that a launch takes by a model of an H200: for ordering configurations, and for nothing else.

    A multiprocessor's programs take turns at its tensor cores and at its share of the L2, whose loads run beside the
    products the better the more stages there are. The L2 gives what the loads in flight ask for, one latency after they
    asked. Beside that: launch, the end of each program, and the sum over splits.
    """
    shape = gemm.shape
    tiles = ceil_div(shape.m, config.tile_m) * ceil_div(shape.n, config.tile_n)
    programs = tiles * config.split_k
    steps = ceil_div(ceil_div(shape.k, config.tile_k), config.split_k)
    per_sm = ceil_div(programs, gemm.sm_count)
    resident = min(per_sm, 1 if config.persistent else _resident(config, gemm))
    rows, columns = (config.tile_n, config.tile_m) if config.swap else (config.tile_m, config.tile_n)
    operations = 2 * max(rows, MMA_ROWS) * max(columns, 32) * config.tile_k
    tensor_s = operations / (_SM_OPERATIONS * (_MMA_EFFICIENCY if rows >= MMA_ROWS else _WARP_EFFICIENCY))
    if gemm.blockwise:
        promoted_s = config.tile_m * config.tile_n / _SM_FMA
        tensor_s += promoted_s if resident == 1 else promoted_s / 3
    step_bytes = (config.tile_m + config.tile_n) * config.tile_k
    in_flight = resident * (config.stages - 1) * step_bytes
    load_s = step_bytes / min(_SM_BANDWIDTH, in_flight / _LATENCY_S)
    if not config.descriptors:
        load_s *= _POINTER_COST
    step_s = _STEP_S + max(tensor_s, load_s) + min(tensor_s, load_s) / (2 * config.stages - 2)
    memory_s = (shape.m * shape.k + shape.n * shape.k + 2 * shape.m * shape.n) / _DRAM
    ends = 1 if config.persistent else ceil_div(per_sm, resident)
    split_s = 0.0 if config.split_k == 1 else _SPLIT_S + 8 * programs * config.tile_m * config.tile_n / _DRAM
    return _LAUNCH_S + max(per_sm * steps * step_s, memory_s) + ends * _END_S + split_s


# Rounded figures of an H200: 1,979 TFLOP/s and about 7 TB/s of L2 over 132 multiprocessors, 4.3 TB/s of DRAM, 128 fp32
# lanes at 1.7 GHz. Efficiencies, latency and overheads are guesses, never measured.
_SM_OPERATIONS, _SM_BANDWIDTH, _SM_FMA, _DRAM = 15e12, 52e9, 217e9, 4.3e12
_MMA_EFFICIENCY, _WARP_EFFICIENCY, _POINTER_COST = 0.75, 0.2, 1.1
_LAUNCH_S, _LATENCY_S, _STEP_S, _END_S, _SPLIT_S = 1.5e-6, 0.9e-6, 0.04e-6, 0.8e-6, 1.0e-6


def _resident(config: TritonConfig, gemm: Gemm) -> int:
    """Programs that a multiprocessor holds at once, by shared memory and by a guess at the registers."""
    registers = accumulators(config) * (2 if gemm.blockwise else 1) + (40 if config.descriptors else 56)
    by_registers = 65536 // (32 * config.warps * min(registers, 255))
    return max(1, min(shared_limit(gemm.capability) // shared_bytes(config), by_registers))


def _grid(gemm: Gemm) -> Iterator[TritonConfig]:
    """Legal configurations, but for those that a look at the shape rules out."""
    shape = gemm.shape
    whole = 2 ** max(4, (shape.m - 1).bit_length())  # a tile with room for all rows
    tiles_m = [64, 128, 256] if whole > 64 else [max(whole // 2, 16), whole]
    tiles_k = [BLOCK] if gemm.blockwise else [64, 128, 256]
    for tile_m, tile_n, tile_k, warps, stages in product(tiles_m, (32, 64, 128, 256), tiles_k, (4, 8), (2, 3, 4, 6, 8)):
        tiles = ceil_div(shape.m, tile_m) * ceil_div(shape.n, tile_n)
        splits = [split for split in (1, 2, 3, 4, 6, 8) if split == 1 or (tiles * (split - 1) < 2 * gemm.sm_count)]
        for split_k, swap, persistent in product(splits, (False, True), (False, True)):
            config = TritonConfig(
                tile_m=tile_m,
                tile_n=tile_n,
                tile_k=tile_k,
                warps=warps,
                stages=stages,
                split_k=split_k,
                swap=swap,
                persistent=persistent,
                descriptors=gemm.aligned and gemm.capability >= TMA_SINCE,
            )
            if _is_worthwhile(config, gemm, tiles) and legal(config, gemm):
                yield config


def _is_worthwhile(config: TritonConfig, gemm: Gemm, tiles: int) -> bool:
    if config.persistent and tiles <= gemm.sm_count:
        return False
    if config.warps == 8 and accumulators(config) < 32:
        return False
    if config.stages > 2 and config.stages > 2 * ceil_div(gemm.shape.k, config.tile_k * config.split_k):
        return False  # more than a program ever fills
    if not has_wide_mma(gemm):
        return not config.swap
    return (config.tile_n >= MMA_ROWS and config.tile_m <= MMA_ROWS) if config.swap else config.tile_m >= MMA_ROWS


@lru_cache
def _table() -> Mapping[str, list[dict[str, Any]]]:
    """Measured rows by the name of the GPU that they were measured on."""
    text = resources.files(__package__).joinpath(TABLE).read_text(encoding="utf-8")
    table = json.loads(text)
    return {table["gpu"]: table["rows"]}
