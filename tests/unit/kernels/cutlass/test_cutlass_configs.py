"""Configurations of the CUTLASS kernels: what is legal, what is chosen, and that choices have no cliffs."""

from __future__ import annotations

import json
import random

import pytest
from copies import replace

from w8a8_bench.kernels.cutlass import configs, fitted, heuristic, tuned
from w8a8_bench.kernels.cutlass.geometry import MAX_CLUSTER, SHARED_BYTES, Geometry, Occupancy, Schedule, TileConfig
from w8a8_bench.kernels.cutlass.variant import SM90A, Variant
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Azp, GemmShape, Problem
from w8a8_bench.problem.formats import Format

FP8 = Variant(format=Format.FP8, out=Format.BF16)
INT8 = Variant(format=Format.INT8, out=Format.FP16, bias=True, azp=Azp.TOKEN)
BLOCKS = Variant(format=Format.FP8, out=Format.FP16, blockwise=True)
VARIANTS = (FP8, replace(FP8, bias=True), INT8, replace(INT8, azp=Azp.TENSOR, bias=False), BLOCKS)
H200 = Occupancy.assumed(132)


def problem(variant: Variant, m: int, n: int, k: int) -> Problem:
    return Problem.of(
        shape=GemmShape(m=m, n=n, k=k),
        format=variant.format,
        out=variant.out,
        scaling=BLOCKWISE if variant.blockwise else PER_TENSOR,
        azp=variant.azp,
        bias=variant.bias,
    )


def shapes(count: int) -> list[tuple[int, int, int]]:
    rng = random.Random(0)
    ms = (1, 8, 16, 17, 63, 64, 65, 127, 128, 129, 512, 4096)
    return [(rng.choice(ms), 16 * rng.randint(1, 512), 16 * rng.randint(1, 512)) for _ in range(count)]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_configuration_of_the_portfolio_is_legal_and_fits_the_multiprocessor(variant):
    assert len(configs.portfolio(variant)) >= 15
    for tile in configs.portfolio(variant):
        g = Geometry(tile, variant)
        assert configs.why_illegal(tile, variant) is None
        assert g.shared_bytes <= SHARED_BYTES
        assert g.cluster_size <= MAX_CLUSTER
        assert g.blocks_of_sm * (g.shared_bytes + 1024) <= 228 * 1024


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_legal_configuration_is_chosen_for_any_shape(variant):
    for m, n, k in shapes(60):
        wanted = problem(variant, m, n, k)
        assert configs.legal(heuristic.choose(wanted, H200), wanted)


@pytest.mark.parametrize("variant", [FP8, INT8, BLOCKS], ids=lambda variant: variant.name)
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (10240, 8192), (2112, 7168), (576, 512)])
def test_more_tokens_are_never_predicted_faster(variant, n, k):
    def best(m: int) -> float:
        chosen, few = heuristic.predicted_best(problem(variant, m, n, k), H200), m <= fitted.FEW
        plain = replace(chosen, raster=TileConfig.raster)
        (costs,) = [one for one in heuristic.costs(variant, H200, few) if one.config == plain]
        return costs.seconds(m, n, k, heuristic.slower(fitted.of(variant, few=few).rates, m, n, k))

    few = [*range(1, fitted.FEW, 7), fitted.FEW]
    more = [*range(fitted.FEW + 1, 520, 7), *range(1000, 8000, 777), 8191, 8192, 8193]
    for ms in (few, more):
        times = [best(m) for m in ms]
        assert times == sorted(times)
    assert best(fitted.FEW + 1) > 0.95 * best(fitted.FEW)  # by other rates


def test_few_tokens_swap_operands_and_fill_the_multiprocessors():
    chosen = heuristic.choose(problem(FP8, 16, 4096, 4096), H200)
    g = Geometry(chosen, FP8)
    assert chosen.swap
    assert chosen.tile_m == 16
    assert 4096 // chosen.tile_n * g.cluster_size > 100


def test_many_tokens_take_the_large_tiles():
    chosen = heuristic.choose(problem(FP8, 8192, 8192, 8192), H200)
    assert not chosen.swap
    assert chosen.tile_m * chosen.tile_n >= 128 * 160


GOOD = TileConfig(tile_m=128, tile_n=256, stages=3)
SWAPPED = TileConfig(tile_m=16, tile_n=64, stages=8, swap=True)


@pytest.mark.parametrize(
    ("tile", "variant", "reason"),
    [
        (replace(GOOD, tile_m=96), FP8, "96 rows"),
        (replace(GOOD, tile_m=256, tile_n=128, schedule=Schedule.PINGPONG), FP8, "256 rows"),
        (replace(GOOD, tile_n=260), FP8, "260 columns"),
        (replace(SWAPPED, tile_m=40), INT8, "8, 24 or a multiple of 16"),
        (replace(GOOD, tile_k=64), FP8, "tile_k=64"),
        (replace(GOOD, tile_k=256, stages=2), BLOCKS, "tile_k=256"),
        (replace(GOOD, stages=1), FP8, "stages=1"),
        (replace(GOOD, stages=5), FP8, "shared memory"),
        (replace(GOOD, raster=0), FP8, "raster=0"),
        (replace(GOOD, tile_n=176), BLOCKS, "two blocks of 128"),
        (replace(GOOD, cluster=(4, 4)), FP8, "expected 1 to 8"),
        (replace(SWAPPED, tile_m=8, cluster=(1, 2)), FP8, "multiple of 8"),
        (TileConfig(tile_m=128, tile_n=128, stages=4, schedule=Schedule.PINGPONG, split_k=2), FP8, "ping-pong"),
        (TileConfig(tile_m=128, tile_n=128, stages=4, schedule=Schedule.STAGGERED, split_k=2), FP8, "staggered"),
        (TileConfig(tile_m=64, tile_n=128, stages=4, schedule=Schedule.STAGGERED), FP8, "staggered"),
        (replace(GOOD, stages=2, schedule=Schedule.STAGGERED), FP8, "more than 2 stages"),
        (TileConfig(tile_m=128, tile_n=128, stages=4, schedule=Schedule.OVERLAPPED, split_k=2), FP8, "overlapped"),
        (TileConfig(tile_m=64, tile_n=128, stages=4, schedule=Schedule.OVERLAPPED), FP8, "overlapped"),
        (TileConfig(tile_m=128, tile_n=128, stages=4, schedule=Schedule.OVERLAPPED), BLOCKS, "overlapped"),
        (TileConfig(tile_m=256, tile_n=256, stages=2), FP8, "registers"),
    ],
)
def test_what_can_not_work_is_refused_with_the_reason(tile, variant, reason):
    assert reason in (configs.why_illegal(tile, variant) or "")


def test_a_split_of_more_blocks_than_tiles_of_k_is_refused():
    tile = replace(SWAPPED, split_k=4)
    assert configs.legal(tile, problem(FP8, 1, 64, 400))
    assert not configs.legal(tile, problem(FP8, 1, 64, 384))


@pytest.mark.parametrize(("n", "k"), [(72, 64), (64, 72)])
def test_sizes_that_tma_can_not_read_are_refused(n, k):
    with pytest.raises(ValueError, match="=72 is not a multiple of 16"):
        heuristic.choose(problem(FP8, 16, n, k), H200)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [FP8, INT8, BLOCKS], ids=lambda variant: variant.name)
def test_tilings_are_legal_distinct_and_hold_the_portfolio(variant):
    found = configs.tilings(variant)
    assert len(set(found)) == len(found) > 500
    assert set(configs.portfolio(variant)) <= set(found)
    schedules = set(Schedule) - ({Schedule.OVERLAPPED} if variant.blockwise else set())
    assert {tile.schedule for tile in found} == schedules
    assert not [tile for tile in found[::17] if configs.why_illegal(tile, variant)]


def test_a_configuration_survives_the_table():
    for variant in VARIANTS:
        for tile in configs.portfolio(variant):
            assert tuned.from_json(json.loads(json.dumps(tuned.to_json(tile)))) == tile


def test_the_tuned_table_comes_before_the_heuristic_and_serves_the_next_larger_m(monkeypatch):
    tile, other = replace(SWAPPED, stages=7), replace(SWAPPED, stages=6)
    table = {("scaled_mm", 4096, 4096): ((16, tile), (32, other))}
    monkeypatch.setattr(tuned, "_table", lambda *key: table if key == (SM90A, "NVIDIA H200", 132) else {})
    assert heuristic.choose(problem(FP8, 9, 4096, 4096), H200) == tile
    assert heuristic.choose(problem(FP8, 17, 4096, 4096), H200) == other
    assert heuristic.choose(problem(FP8, 33, 4096, 4096), H200) not in (tile, other)
    assert heuristic.choose(problem(FP8, 9, 4096, 4096), Occupancy.assumed(114)) != tile
    h100 = Occupancy.assumed(132, "NVIDIA H100 80GB HBM3", 3.35e12)
    assert heuristic.choose(problem(FP8, 9, 4096, 4096), h100) != tile
    assert heuristic.choose(problem(BLOCKS, 9, 4096, 4096), H200) != tile
    shape = GemmShape(m=9, n=4096, k=4096)
    assert tuned.lookup(FP8, shape, H200) == tile
    assert tuned.lookup(replace(FP8, arch="sm_100a"), shape, H200) is None


def test_tables_are_of_the_architecture_that_they_stand_under():
    for arch, name, sm_count in tuned.TABLES:
        assert tuned.choices(arch, name, sm_count)


def test_an_illegal_choice_in_the_table_is_passed_over(monkeypatch):
    table = {("scaled_mm", 4096, 128): ((16, replace(SWAPPED, split_k=2)),)}
    monkeypatch.setattr(tuned, "_table", lambda *key: table)
    assert heuristic.choose(problem(FP8, 1, 4096, 128), H200).split_k == 1
