"""The script that holds this project's kernels against the best of others."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from copies import replace
from made_results import HEADER, end, record

from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.results.json_lines import Writer

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
OURS, VLLM, LT, TRITON = (f"{who}_fp8_fp8_bf16_scaled_mm" for who in ("cutlass", "vllm", "cublaslt", "triton"))
COLD = "time_cold_l2"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    return importlib.import_module("judge_unseen")


def cell(kernel: str, seconds: float, shape: GemmShape, index: int):
    samples = {COLD: tuple(seconds * wobble for wobble in (1.0, 1.001, 0.999, 1.0, 1.0, 1.0))}
    return record(kernel, comparison=index, shape=shape, samples=samples)


def test_ours_is_held_against_the_fastest_peer_of_the_same_problem(script, tmp_path, monkeypatch, capsys):
    path = tmp_path / "r.jsonl"
    device = {"kind": "cuda", "index": 0, "name": "a GPU", "torch": [2, 11], "memory_bytes": 1, "available_bytes": 1}
    with Writer(str(path), resume=False) as writer:
        writer.write_header(replace(HEADER, device=device))
        for index, (m, ours) in enumerate(((16, 9e-6), (1024, 12e-6))):
            shape = GemmShape(m=m, n=512, k=512)
            times = {BASELINE: 2e-5, OURS: ours, VLLM: 11e-6, LT: 10e-6, TRITON: 1e-6}
            cells = [cell(kernel, seconds, shape, index) for kernel, seconds in times.items()]
            writer.append(cells, replace(end(cells), duplicate={}))
    monkeypatch.setattr(sys, "argv", ["judge_unseen", str(path), "--worst", "1"])
    assert script.main() == 0
    first, worst = capsys.readouterr().out.splitlines()
    assert first.startswith("fp8 tensor-w-tensor-a: 2 shapes, 1.039, m >= 384 1.200, 99% at most 1.200, worst 1.200")
    assert worst.split() == ["1.200", "m=1024", "n=512", "k=512", LT]


def test_files_without_a_peer_are_bad_input(script, tmp_path, monkeypatch, capsys):
    path = tmp_path / "r.jsonl"
    with Writer(str(path), resume=False) as writer:
        writer.write_header(HEADER)
        cells = [cell(OURS, 1e-5, GemmShape(m=1, n=16, k=16), 0)]
        writer.append(cells, replace(end(cells), duplicate={}))
    monkeypatch.setattr(sys, "argv", ["judge_unseen", str(path)])
    assert script.main() == 2
    assert "no cell of cutlass has a peer" in capsys.readouterr().err
