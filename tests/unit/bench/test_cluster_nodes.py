"""What a cluster's nodes must have in common, and what is refused without one."""

from __future__ import annotations

import builtins

import pytest

from w8a8_bench.bench import cluster
from w8a8_bench.bench.process import SweepRefused
from w8a8_bench.cli import main

HERE = {"torch": "2.13.0", "source": "abc", "platform": "Linux-6", "providers": {"triton": "3.6.0", "vllm": "0.33.0"}}
SWEEP = ["--dtype", "int8", "square_bench", "--dim-start", "64", "--dim-end", "64", "--dim-increment", "1"]


def test_machines_may_differ_and_versions_may_not():
    cluster.refuse_differing({"a": HERE, "b": {**HERE, "platform": "Linux-7"}})
    with pytest.raises(SweepRefused, match=r"differ in torch: 2\.13\.0 on a, c; 2\.14\.0 on b; install the same"):
        cluster.refuse_differing({"a": HERE, "b": {**HERE, "torch": "2.14.0"}, "c": HERE})
    with pytest.raises(SweepRefused, match=r"differ in vllm: 0\.33\.0 on a; None on b"):
        cluster.refuse_differing({"a": HERE, "b": {**HERE, "providers": {"triton": "3.6.0"}}})
    with pytest.raises(SweepRefused, match="differ in source"):
        cluster.refuse_differing({"a": HERE, "b": {**HERE, "source": "abd"}})


def test_nodes_of_one_host_are_told_apart():
    nodes = [{"NodeManagerHostname": host, "NodeID": f"{n}aaaaaaa"} for n, host in enumerate(("x", "y", "x"))]
    assert cluster._names(nodes) == ["x-0aaaaa", "y", "x-2aaaaa"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cluster", "auto", "--devices", "all"], "a cluster measures on all its GPUs, or with --device cpu"),
        (["--cluster", "auto", "--device", "cuda:1"], "--cluster and device cuda:1"),
        (["--cluster", ""], "--cluster ''"),
        (
            ["--cluster", "127.0.0.1:1", "--device", "cpu"],
            "no Ray cluster at 127.0.0.1:1: Connection refused; `ray start",
        ),
        (["--cluster", "somewhere", "--device", "cpu"], "--cluster 'somewhere': expected auto, HOST:PORT or ray://"),
        (["--cluster", "h:99999", "--device", "cpu"], "--cluster 'h:99999'"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main([*SWEEP, *words]) == 2
    assert message in capsys.readouterr().err


def test_without_ray_the_remedy_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    imported = builtins.__import__

    def without(name, *more):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return imported(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main.main([*SWEEP, "--cluster", "auto", "--device", "cpu"]) == 2
    assert "pip install 'ray>=2.9'" in capsys.readouterr().err
