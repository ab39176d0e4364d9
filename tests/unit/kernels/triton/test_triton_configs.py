"""Tile configurations: what is legal and why not, that there is always one, and where it is taken from."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from w8a8_bench.kernels.triton import configs
from w8a8_bench.kernels.triton.configs import Gemm, TritonConfig, candidates, choose, estimate_s, legal
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.formats import Format

H200, L40, A100, B200 = (9, 0), (8, 9), (8, 0), (10, 0)
PLAIN = TritonConfig(tile_m=64, tile_n=128, tile_k=128)


def gemm(m=64, n=4096, k=4096, fmt=Format.FP8, blockwise=False, capability=H200, aligned=True) -> Gemm:
    return Gemm(
        shape=GemmShape(m=m, n=n, k=k),
        format=fmt,
        blockwise=blockwise,
        capability=capability,
        sm_count=132,
        aligned=aligned,
    )


@pytest.mark.parametrize(
    ("config", "problem", "says"),
    [
        (PLAIN, gemm(), ""),
        (replace(PLAIN, tile_m=48), gemm(), "tile_m=48"),
        (replace(PLAIN, warps=6), gemm(), "warps=6"),
        (replace(PLAIN, tile_m=8), gemm(), "8 x 128 x 128"),
        (replace(PLAIN, tile_k=16), gemm(), "64 x 128 x 16"),
        (replace(PLAIN, stages=1), gemm(), "stages=1"),
        (replace(PLAIN, split_k=0), gemm(), "split_k=0"),
        (replace(PLAIN, tile_k=64), gemm(blockwise=True), "tile_k=64"),
        (replace(PLAIN, tile_n=256, warps=8), gemm(blockwise=True), "tile_n=256"),
        (replace(PLAIN, descriptors=True), gemm(), ""),
        (replace(PLAIN, descriptors=True), gemm(capability=L40), "8.9"),
        (replace(PLAIN, descriptors=True), gemm(k=4100, aligned=False), "k=4100"),
        (replace(PLAIN, split_k=4, persistent=True), gemm(), "persistent"),
        (replace(PLAIN, split_k=4), gemm(k=512), ""),
        (replace(PLAIN, split_k=4), gemm(k=384), "split_k=4"),
        (replace(PLAIN, tile_m=128, tile_n=256, warps=8), gemm(), ""),
        (replace(PLAIN, tile_m=128, tile_n=256), gemm(), "256 accumulators"),
        (replace(PLAIN, tile_m=128, tile_n=256, warps=8, split_k=2), gemm(), "128 accumulators"),
        (replace(PLAIN, tile_m=128, warps=8, split_k=2), gemm(blockwise=True), ""),
        (replace(PLAIN, tile_m=128, warps=8), gemm(blockwise=True), ""),
        (replace(PLAIN, tile_m=128), gemm(blockwise=True), "128 accumulators"),
        (replace(PLAIN, tile_m=128), gemm(capability=A100, fmt=Format.INT8), "128 accumulators"),
        (replace(PLAIN, tile_m=128), gemm(capability=B200), ""),
        (replace(PLAIN, tile_m=128), gemm(capability=B200, fmt=Format.INT8), "128 accumulators"),
        (replace(PLAIN, stages=9), gemm(), ""),
        (replace(PLAIN, stages=10), gemm(), "shared memory"),
        (replace(PLAIN, stages=4), gemm(capability=L40), ""),
        (replace(PLAIN, stages=5), gemm(capability=L40), "101376"),
        (replace(PLAIN, stages=5), gemm(capability=(12, 1)), "101376"),
    ],
)
def test_what_is_illegal_is_refused_with_the_value(config, problem, says):
    support = legal(config, problem)
    assert says in support.reason
    assert bool(support) is not bool(says)


@pytest.mark.parametrize("capability", [H200, L40, A100, B200, (12, 0)], ids=str)
def test_every_shape_has_candidates_and_all_of_them_are_legal(capability):
    draw = random.Random(3)
    shapes = [(1, 1, 1), (16, 1, 40000), (1, 300000, 3), (8192, 28672, 16)]
    shapes += [tuple(draw.randint(1, 9000) for _ in range(3)) for _ in range(4)]
    for (m, n, k), fmt, blockwise in [
        (s, f, b) for s in shapes for f, b in ((Format.INT8, 0), (Format.FP8, 0), (Format.FP8, 1))
    ]:
        problem = gemm(m, n, k, fmt, bool(blockwise), capability, aligned=k % 16 == 0)
        found = candidates(problem)
        assert found, problem
        assert all(legal(config, problem) for config in found)
        assert len(set(found)) == len(found)
        times = [estimate_s(config, problem) for config in found]
        assert times == sorted(times)
        assert times[0] > 0


def test_few_tokens_on_hopper_are_swapped_so_that_no_tensor_core_works_on_missing_rows():
    for m in (1, 16):
        for blockwise in (False, True):
            best = candidates(gemm(m=m, blockwise=blockwise))[0]
            assert best.swap and best.tile_m == 16 and best.tile_n >= 64
    assert not any(config.swap for config in candidates(gemm(m=16, capability=L40)))


def test_few_tiles_are_split_along_k_and_many_go_through_persistent_programs():
    assert candidates(gemm(m=16))[0].split_k > 1
    assert candidates(gemm(m=8192))[0].persistent
    assert not any(config.persistent for config in candidates(gemm(m=64, n=4096)))


def table(monkeypatch, tmp_path, rows) -> None:
    (tmp_path / configs.TABLE).write_text(json.dumps({"gpu": "NVIDIA H200", "note": "", "rows": rows}))
    monkeypatch.setattr(configs.resources, "files", lambda package: tmp_path)
    monkeypatch.setattr(configs, "_table", configs._table.__wrapped__)


@pytest.fixture(autouse=True)
def nothing_chosen_yet():
    choose.cache_clear()
    yield
    choose.cache_clear()


ROW = {"format": "fp8", "blockwise": False, "m": 64, "n": 4096, "k": 4096}


def test_the_table_decides_for_its_gpu_and_shape_alone(monkeypatch, tmp_path):
    table(monkeypatch, tmp_path, [{**ROW, "time_s": 1e-5, "config": PLAIN.to_json()}])
    assert choose(gemm(), "NVIDIA H200") == configs.ChosenConfig(PLAIN, "table")
    for other in (gemm(m=65), gemm(fmt=Format.INT8), gemm(blockwise=True), gemm(n=4097), gemm(k=4112)):
        assert choose(other, "NVIDIA H200").source == "estimate"
    assert choose(gemm(), "NVIDIA L40").source == "estimate"


def test_a_row_that_is_not_legal_here_is_passed_over(monkeypatch, tmp_path):
    config = replace(PLAIN, descriptors=True)
    table(monkeypatch, tmp_path, [{**ROW, "time_s": 1e-5, "config": config.to_json()}])
    assert choose(gemm(), "NVIDIA H200").config == config
    assert choose(gemm(aligned=False), "NVIDIA H200").source == "estimate"


def test_the_table_that_ships_is_legal_and_says_whether_it_was_measured():
    text = configs.resources.files(configs.__package__).joinpath(configs.TABLE).read_text()
    shipped = json.loads(text)
    assert shipped["gpu"] == "NVIDIA H200"
    assert bool(shipped["rows"]) is not ("nothing is measured" in shipped["note"])
    for row in shipped["rows"]:
        problem = gemm(row["m"], row["n"], row["k"], Format(row["format"]), row["blockwise"])
        assert legal(TritonConfig(**row["config"]), problem)
        assert row["time_s"] > 0


def test_a_configuration_survives_its_record():
    config = replace(PLAIN, swap=True, split_k=3, group=2)
    assert TritonConfig(**json.loads(json.dumps(config.to_json()))) == config


def test_what_was_tuned_on_this_machine_comes_first_and_says_when(monkeypatch, tmp_path):
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(tmp_path))
    table(monkeypatch, tmp_path, [{**ROW, "time_s": 1e-5, "config": PLAIN.to_json()}])
    fastest = replace(PLAIN, stages=4)
    assert configs.keep(gemm(), "NVIDIA H200", fastest, tried=7)
    found = choose(gemm(), "NVIDIA H200")
    assert found.config == fastest
    assert re.fullmatch(r"fastest of 7, timed cold in replayed graphs at 20\d\d-\S+", found.source)
    assert choose(gemm(m=32), "NVIDIA H200").source == "estimate"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"config": {"tile_m": "x"}, "timed": "", "tried": 1}'])
def test_a_damaged_choice_is_none(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(tmp_path))
    configs.keep(gemm(), "a GPU", PLAIN, tried=7)
    (kept,) = tmp_path.glob("choices/*.json")
    kept.write_text(damage)
    assert choose(gemm(), "a GPU").source == "estimate"


def test_a_choice_for_other_sources_or_another_triton_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(tmp_path))
    configs.keep(gemm(), "a GPU", PLAIN, tried=7)
    monkeypatch.setattr(configs, "sources", lambda: "others")
    assert choose(gemm(), "a GPU").source == "estimate"
    monkeypatch.undo()
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(tmp_path))
    choose.cache_clear()
    monkeypatch.setattr(configs.importlib.metadata, "version", lambda package: "99")
    assert choose(gemm(), "a GPU").source == "estimate"
