"""The script that fills the table of the Triton kernels: it keeps the fastest, and what it writes is what is read."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from copies import replace

pytest.importorskip("triton", reason="triton is not installed")

from made_devices import CPU, H200

from w8a8_bench.kernels.triton import configs
from w8a8_bench.kernels.triton.configs import TritonConfig, candidates, choose
from w8a8_bench.kernels.triton.prepare import gemm_of
from w8a8_bench.problem import GemmShape

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts"
SHAPE = GemmShape(m=16, n=256, k=512)
PLAIN = TritonConfig(tile_m=64, tile_n=64, tile_k=64)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    choose.cache_clear()
    yield importlib.import_module("tune_triton")
    choose.cache_clear()


def test_the_fastest_when_measured_again_is_kept(script, monkeypatch):
    device = replace(CPU, capability=(9, 0), sm_count=132)
    problem = script.problem_of("fp8", SHAPE)
    few = candidates(gemm_of(problem, device))[:10]
    fastest_at_first, fastest = few[7], few[3]

    class MadeTimer:
        def __init__(self, device, operands) -> None:
            pass

        def seconds(self, binds, samples):
            again = len(binds) > 1
            quick = fastest if again else fastest_at_first
            return {config: 1.0 if config == quick else 2.0 + few.index(config) / 100 for config in binds}

    monkeypatch.setattr(script, "ColdTimer", MadeTimer)
    times = script.tune(device, problem, len(few))
    assert next(iter(times.items())) == (fastest, 1.0)
    assert times.keys() == set(few), "every time is kept"


def test_every_time_is_recorded_after_where_it_was_measured(script, tmp_path):
    problem, path = script.problem_of("int8", SHAPE), tmp_path / "times.jsonl"
    for seconds in (1e-6, 2e-6):
        script.record(path, H200, problem, {PLAIN: seconds})
    run, first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert run["device"]["name"] == H200.name
    assert (first["m"], first["format"], first["times"]) == (16, "int8", [[PLAIN.to_json(), 1e-6]])
    assert second["times"][0][1] == 2e-6


def test_what_is_written_is_what_is_chosen_from(script, monkeypatch, tmp_path):
    device = replace(H200, name="NVIDIA H200")
    problem = script.problem_of("blockwise", SHAPE)
    config = TritonConfig(tile_m=16, tile_n=64, tile_k=128, swap=True)
    other = {**script.row_of(script.problem_of("int8", SHAPE)), "time_s": 1e-6, "config": PLAIN.to_json()}
    row = {**script.row_of(problem), "time_s": 2e-6, "config": config.to_json()}
    script.write(tmp_path / configs.TABLE, device, [row, other])
    monkeypatch.setattr(configs.resources, "files", lambda package: tmp_path)
    monkeypatch.setattr(configs, "_table", configs._table.__wrapped__)
    assert choose(gemm_of(problem, device), device.name) == configs.ChosenConfig(config, "table")
    assert choose(gemm_of(script.problem_of("fp8", SHAPE), device), device.name).source == "estimate"
    assert "tune_triton.py" in json.loads((tmp_path / configs.TABLE).read_text())["note"]


def test_launches_that_compile_to_the_same_code_are_compiled_once(script):
    def key(m: int, n: int, k: int, config: TritonConfig = PLAIN):
        return script.what_is_compiled((gemm_of(script.problem_of("fp8", GemmShape(m=m, n=n, k=k)), H200), config))

    assert key(16, 64, 64) == key(4096, 128, 4096)
    for other in (key(1, 64, 64), key(17, 64, 64), key(16, 65, 64), key(16, 64, 80), key(16, 64, 63)):
        assert other != key(16, 64, 64)
    assert key(16, 64, 64, replace(PLAIN, stages=4)) != key(16, 64, 64)
