"""The whole grid as a user meets it: every scheme, zero point, bias and kind of activations, INT8 and FP8 together."""

from __future__ import annotations

import json
import re
from itertools import product

import msgspec
import pytest

from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.report import table
from w8a8_bench.results import json_lines
from w8a8_bench.timing import settings

SCHEMES = ("tensor-w-tensor-a", "tensor-w-token-a", "channel-w-tensor-a", "channel-w-token-a")
KINDS = tuple(kind.value for kind in Activations)
GRID = ("--dtype", "int8", "fp8", "--schemes", "all", "--activations", *KINDS, "--device", "cpu", "--rigor", "quick")
ONE = ("square_bench", "--dim-start", "48", "--dim-end", "48", "--dim-increment", "1")


@pytest.fixture
def one_block(monkeypatch):
    """No time for more than the first block: what is measured is of interest here, and not how exactly."""
    monkeypatch.setattr(settings, "CPU_BUDGET_S", 0.0)


def legal(kernel: str) -> set[tuple[str, str]]:
    """What the arithmetic allows, written out anew: schemes and kinds of activations of a PyTorch kernel."""
    if "blockwise" in kernel:
        return {("block-w-group-a", "prequantized"), ("block-w-group-a", "dynamic")}
    every = set(product(SCHEMES, KINDS))
    if "azp" in kernel and "azp_pt" not in kernel:
        return {(scheme, kind) for scheme, kind in every if scheme.endswith("tensor-a") and kind != "dynamic"}
    if "azp_pt" in kernel:
        return {(s, k) for s, k in every if k == "prequantized" or (k == "dynamic" and s.endswith("token-a"))}
    return {(scheme, kind) for scheme, kind in every if kind != "static" or scheme.endswith("tensor-a")}


def test_every_legal_combination_is_measured_or_refused_with_its_reason_and_says_what_quantizing_costs(
    cli_here, tmp_path, monkeypatch, one_block
):
    monkeypatch.setattr(table, "WIDTH", 1000)  # else wide times cost a column
    result = cli_here(*GRID, *ONE, "--out", "r.jsonl")
    assert result.returncode == 0, result.stderr
    records = [record for record in json_lines.read(tmp_path / "r.jsonl").records if record.provider == "pytorch"]
    found: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        if not KernelName.parse(record.kernel).is_baseline:
            what = str(record.problem.scaling), record.problem.activations.value
            found.setdefault(record.kernel, []).append(what)
    assert {kernel: sorted(each) for kernel, each in found.items()} == {
        kernel: sorted(legal(kernel)) for kernel in found
    }
    assert len(found) == 6 + 4 + 1
    for record in records:
        blockwise = "blockwise" in record.kernel
        assert record.status is (Status.UNSUPPORTED if blockwise else Status.OK), f"{record.kernel} {record.reason}"
        assert record.reason == ("PyTorch has no block-w-group-a product on a CPU" if blockwise else "")
        assert bool(record.scheme_sqnr_db) is (record.problem.scaling is not None)
        inside = record.problem.activations is not Activations.PREQUANTIZED
        assert ("time_host_quant" in record.samples) is (inside and not blockwise)
    lines = result.stdout.splitlines()
    quantizing = [line for line in lines if re.match(r"pytorch\S*,(dynamic|static)\]", line)]
    assert len(quantizing) > 20
    for line in quantizing:
        assert len([word for word in line.split() if word[0] in "+-" and word[1:2].isdigit()]) == 1, line
    refused = [line for line in lines if line.startswith("did not run: pytorch_fp8_fp8_bf16_scaled_mm_blockwise")]
    assert len(refused) == 1 and "and 1 more: PyTorch has no block-w-group-a product on a CPU" in refused[0]
    best = [line.strip() for line in lines]
    best = best[best.index(next(line for line in best if line.startswith("fastest by scheme"))) + 2 :]
    # Four symmetric INT8 schemes and FP8's, two zero points per tensor, four per token; blockwise.
    assert sum(line.startswith("prequantized ") for line in best) == 4 + 4 + 2 + 4 + 1
    assert sum(line.startswith("dynamic ") for line in best) == 4 + 4 + 0 + 2 + 1
    assert sum(line.startswith("static ") for line in best) == 2 + 2 + 2 + 0 + 0


def test_a_grid_of_everything_can_be_gone_on_with(cli_here, tmp_path, one_block):
    few = ("--kernels", "pytorch_i8_i8_bf16_scaled_mm", "pytorch_fp8_fp8_bf16_scaled_mm_blockwise")
    sizes = ("square_bench", "--dim-start", "8", "--dim-end", "16", "--dim-increment", "8")
    assert cli_here(*GRID, *sizes, *few, "--out", "r.jsonl").returncode == 0
    path = tmp_path / "r.jsonl"
    whole = path.read_text().splitlines()
    first_end = next(number for number, line in enumerate(whole) if json.loads(line)["kind"] == "comparison")
    path.write_text("\n".join(whole[: first_end + 1]) + "\n")
    result = cli_here(*GRID, *sizes, *few, "--out", "r.jsonl", "--resume")
    assert result.returncode == 0, result.stderr
    cells = [json.loads(line) for line in whole]
    again = [(r.comparison, r.kernel, msgspec.to_builtins(r.problem)) for r in json_lines.read(path).records]
    assert again == [(c["comparison"], c["kernel"], c["problem"]) for c in cells if c["kind"] == "cell"]
