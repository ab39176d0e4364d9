"""A Ray cluster of several nodes on this machine, each with a CPU: the same cells as one process, each once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import environment

NODES = 3
SWEEP = (
    *("--dtype", "int8", "--device", "cpu", "--rigor", "quick", "--budget", "1", "--no-report"),
    *("square_bench", "--dim-start", "32", "--dim-end", "256", "--dim-increment", "32"),
)
SHAPES = 8


@pytest.fixture
def cluster():
    os.environ |= environment()
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    for _ in range(NODES - 1):
        made.add_node(num_cpus=1, num_gpus=0)
    yield made
    made.shutdown()


def sweep(where: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    where.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "w8a8_bench", *words],
        cwd=where,
        env={**environment(), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(where: Path) -> list[dict]:
    return [json.loads(line) for line in (where / "r.jsonl").read_text().splitlines()]


def cells(where: Path) -> Counter[tuple]:
    found = [line for line in lines(where) if line["kind"] == "cell"]
    return Counter((one["kernel"], json.dumps(one["problem"], sort_keys=True), one["status"]) for one in found)


def workers_left() -> list[int]:
    """Processes that are workers of this tool and were started by Ray: other tests have workers too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            words, variables = ((process / name).read_bytes() for name in ("cmdline", "environ"))
            if b"w8a8_bench.bench.worker import main" in words and b"RAY_" in variables:
                found.append(int(process.name))
    return found


def until(holds, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.2)
    return False


def the_cells_are_those_of_one_process_each_once(cluster, tmp_path):
    alone = sweep(tmp_path / "alone", *SWEEP, "--out", "r.jsonl")
    out, err = alone.communicate(timeout=300)
    assert alone.returncode == 0, out + err
    many = sweep(tmp_path / "many", *SWEEP, "--out", "r.jsonl", "--cluster", cluster.address)
    assert until(workers_left, 120), "workers of a cluster are not recognized"
    out, err = many.communicate(timeout=300)
    assert many.returncode == 0, out + err
    assert cells(tmp_path / "many") == cells(tmp_path / "alone")
    assert set(cells(tmp_path / "many").values()) == {1}
    header = lines(tmp_path / "many")[0]
    nodes = {device["node"]: device["uuid"] for device in header["devices"]}
    assert len(nodes) == NODES
    used = {line["device"] for line in lines(tmp_path / "many") if line["kind"] == "cell"}
    assert used == set(nodes.values())
    assert until(lambda: not workers_left(), 20), workers_left()


def a_node_that_is_killed_loses_and_doubles_nothing(cluster, tmp_path):
    extra = cluster.add_node(num_cpus=1, num_gpus=0)
    running = sweep(tmp_path / "k", *SWEEP, "--out", "r.jsonl", "--cluster", cluster.address)
    records = tmp_path / "k/r.jsonl"
    assert until(lambda: records.exists() and '"comparison", "index"' in records.read_text(), 120)
    cluster.remove_node(extra, allow_graceful=False)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, out + err
    done = [line["index"] for line in lines(tmp_path / "k") if line["kind"] == "comparison"]
    assert sorted(done) == list(range(SHAPES))
    assert set(cells(tmp_path / "k").values()) == {1}
    if "a device is given up" not in err:  # it had nothing in hand when it was killed
        assert len(done) == SHAPES


def an_interrupted_sweep_goes_on_and_leaves_no_process(cluster, tmp_path):
    words = (*SWEEP, "--out", "r.jsonl", "--cluster", cluster.address)
    running = sweep(tmp_path / "i", *words)
    records = tmp_path / "i/r.jsonl"
    assert until(lambda: records.exists() and '"comparison", "index"' in records.read_text(), 120)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, out + err
    assert "go on with:" in err
    assert until(lambda: not workers_left(), 20), workers_left()
    again = sweep(tmp_path / "i", *words, "--resume")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, out + err
    assert sorted(line["index"] for line in lines(tmp_path / "i") if line["kind"] == "comparison") == list(
        range(SHAPES)
    )
    assert set(cells(tmp_path / "i").values()) == {1}


def a_cluster_without_a_gpu_is_one_line(cluster, tmp_path):
    words = [word for word in SWEEP if word not in ("--device", "cpu")]
    without = sweep(tmp_path / "g", *words, "--out", "r.jsonl", "--cluster", cluster.address)
    _, err = without.communicate(timeout=120)
    assert without.returncode == 2
    assert "has a GPU: --device cpu measures on their CPUs" in err


@pytest.mark.slow
def test_a_cluster_of_three_nodes(cluster, tmp_path):
    """One test, so that there is one cluster: it takes 10 s to start."""
    the_cells_are_those_of_one_process_each_once(cluster, tmp_path)
    a_node_that_is_killed_loses_and_doubles_nothing(cluster, tmp_path)
    an_interrupted_sweep_goes_on_and_leaves_no_process(cluster, tmp_path)
    a_cluster_without_a_gpu_is_one_line(cluster, tmp_path)
