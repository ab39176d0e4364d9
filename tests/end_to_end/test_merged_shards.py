"""Shards of a sweep, measured one by one and joined, against the same sweep in one piece."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, environment

KERNELS = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
SWEEP = (
    *("--dtype", "int8", "--device", "cpu", "--rigor", "quick", "--no-report", "--kernels", *KERNELS),
    *("model_bench", "--batch-sizes", "1", "17", "--models"),
)
SHARDS = ("1.jsonl", "2.jsonl.gz", "3.jsonl")
SHAPES = 8
"""Four layers at two sizes: shards of 3, 3 and 2."""


pytestmark = pytest.mark.slow  # the sweeps that the others start from take half a minute


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A directory with a sweep in one.jsonl, and the same in the three `SHARDS` of the directory `shards`."""
    directory = tmp_path_factory.mktemp("measured")
    (directory / "config.json").write_text(json.dumps(TINY))
    (directory / "shards").mkdir()
    for out in ("one.jsonl", *(f"shards/{number}.jsonl" for number in (1, 2, 3))):
        share = ("--shard", f"{Path(out).stem}/3") if "/" in out else ()
        command = [sys.executable, "-m", "w8a8_bench", *SWEEP, str(directory / "config.json"), *share, "--out", out]
        subprocess.run(command, cwd=directory, env=environment(), capture_output=True, timeout=300, check=True)
    second = directory / "shards/2.jsonl"
    (directory / "shards/2.jsonl.gz").write_bytes(gzip.compress(second.read_bytes()))
    second.rename(directory / "second.jsonl")
    return directory


@pytest.fixture
def sweep(measured) -> tuple[str, ...]:
    """The words of the sweep that was measured. Its model is named by its path, which is in the plan."""
    return *SWEEP, str(measured / "config.json")


@pytest.fixture
def here(measured, tmp_path, cli_here) -> Path:
    """A copy of what was measured, in which `cli_here` runs."""
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    return tmp_path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def cells(path: Path) -> list[tuple]:
    return [
        (line["comparison"], line["kernel"], json.dumps([line["problem"], line["labels"]]), line["status"])
        for line in lines(path)
        if line["kind"] == "cell"
    ]


def plan(path: Path) -> dict:
    return lines(path)[0]["plan"]


def merged(cli_here, *words: str) -> None:
    result = cli_here("merge", *(words or ("shards",)), "-o", "all.jsonl")
    assert result.returncode == 0, result.stderr


def refused(result, says: str) -> None:
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
    assert says in result.stderr


def test_shards_hold_every_third_shape_of_one_plan(measured):
    assert plan(measured / "one.jsonl")["shard"] is None
    second = measured / "second.jsonl"
    assert plan(second) == {**plan(measured / "one.jsonl"), "shard": "2/3"}
    assert [line["index"] for line in lines(second) if line["kind"] == "comparison"] == [1, 4, 7]


def test_merged_shards_are_the_cells_of_one_sweep(here, cli_here):
    merged(cli_here)
    assert cells(here / "all.jsonl") == cells(here / "one.jsonl")
    first, *rest = lines(here / "all.jsonl")
    assert first["plan"] == plan(here / "one.jsonl")
    assert len(first["devices"]) == 1
    assert [line["index"] for line in rest if line["kind"] == "comparison"] == list(range(SHAPES))
    expected = [line for shard in ("1", "3") for line in lines(here / f"shards/{shard}.jsonl")[1:]]
    assert all(line in rest for line in expected), "what was measured is as it was"


def test_every_command_reads_merged_shards_as_one_sweep(here, cli_here):
    merged(cli_here)
    assert f"{2 * SHAPES} cells\n" in cli_here("report", "all.jsonl", "-o", "page.html").stdout
    assert cli_here("recommend", "all.jsonl", "--model", "./config.json").returncode == 0
    compared = cli_here("compare", "one.jsonl", "all.jsonl", "--force", "--require-all", "--format", "json")
    assert compared.returncode in (0, 1), compared.stderr  # this machine may be busy
    assert compared.stderr == ""


def test_a_merged_sweep_has_nothing_left_to_resume(here, sweep, cli_here):
    merged(cli_here)
    before = (here / "all.jsonl").read_bytes()
    result = cli_here(*sweep, "--out", "all.jsonl", "--resume")
    assert result.returncode == 0, result.stderr
    assert f"resumed: {SHAPES} of {SHAPES} shapes are in all.jsonl" in result.stdout
    assert (here / "all.jsonl").read_bytes() == before


def test_what_a_partial_merge_lacks_is_measured_by_resuming_it(here, sweep, cli_here):
    files = ("shards/1.jsonl", "shards/2.jsonl.gz")
    refused(cli_here("merge", *files, "-o", "all.jsonl"), "shard is missing: 3/3; --partial")
    assert not (here / "all.jsonl").exists()
    result = cli_here("merge", *files, "--partial", "-o", "all.jsonl")
    assert result.returncode == 0, result.stderr
    assert "12 cells, 6 shapes, 2 shards\nmissing: 2 shapes; the sweep's command with --out all.jsonl" in result.stdout
    assert cli_here(*sweep, "--out", "all.jsonl", "--resume").returncode == 0
    assert sorted(cells(here / "all.jsonl")) == sorted(cells(here / "one.jsonl"))


def test_a_shard_that_was_cut_off_is_refused_and_joined_once_it_is_whole(here, sweep, cli_here):
    third = here / "shards/3.jsonl"
    third.write_bytes(third.read_bytes()[:-10])
    result = cli_here("merge", "shards", "-o", "all.jsonl")
    assert result.returncode == 2
    assert "shards/3.jsonl lacks 1 of its 2 shapes; --partial" in result.stderr
    resumed = cli_here(*sweep, "--shard", "3/3", "--out", "shards/3.jsonl", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed: 1 of 2 shapes" in resumed.stdout
    merged(cli_here)
    assert cells(here / "all.jsonl") == cells(here / "one.jsonl")


@pytest.mark.parametrize("share", [(), ("--shard", "1/3"), ("--shard", "2/4")])
def test_a_shard_is_not_gone_on_with_as_another(here, sweep, cli_here, share):
    before = (here / "second.jsonl").read_bytes()
    result = cli_here(*sweep, *share, "--out", "second.jsonl", "--resume")
    refused(result, f"its shard is '2/3' and here it is {repr(share[1]) if share else None}")
    assert (here / "second.jsonl").read_bytes() == before


def test_a_file_that_does_not_belong_is_named(here, cli_here):
    refused(cli_here("merge", "shards", "second.jsonl", "-o", "all.jsonl"), "are both shard 2/3: leave one out")
    refused(cli_here("merge", "shards", "one.jsonl", "-o", "all.jsonl"), "one.jsonl is no shard")
    foreign = here / "shards/3.jsonl"
    foreign.write_text(foreign.read_text().replace('"seed": 0', '"seed": 1'))
    refused(cli_here("merge", "shards", "-o", "all.jsonl"), "shards/3.jsonl does not belong to the sweep of shards/1")
    assert not (here / "all.jsonl").exists()


@pytest.mark.parametrize("out", ["one.jsonl", "second.jsonl", "shards/1.jsonl", "link.jsonl"])
def test_no_file_is_overwritten_and_none_that_is_read(here, cli_here, out):
    (here / "link.jsonl").symlink_to("nowhere")
    before = {path: path.read_bytes() for path in here.rglob("*.jsonl*") if path.exists()}
    refused(cli_here("merge", "shards", "-o", out), f"--out {out} exists: choose another name")
    assert {path: path.read_bytes() for path in here.rglob("*.jsonl*") if path.exists()} == before


def test_files_that_no_out_names_have_the_shard_in_their_names(here, sweep, cli_here):
    result = cli_here(*sweep, "--shard", "3/3")
    assert result.returncode == 0, result.stderr
    (records,) = here.glob("model_bench-torch.int8-shard3of3-*.jsonl")
    assert cells(records) == cells(here / "shards/3.jsonl")
    assert f"shard 3/3 of {SHAPES} shapes" in result.stdout
    assert " report " in result.stdout[result.stdout.index("\nnext: ") :], "a part of a model is not recommended from"


def test_a_dry_run_lists_the_shapes_of_the_shard(here, sweep, cli_here):
    result = cli_here(*sweep, "--shard", "3/3", "--dry-run")
    assert result.stdout.startswith(f"model_bench on the CPU: 2 shapes, 4 cells, rigor quick, shard 3/3 of {SHAPES} sh")
