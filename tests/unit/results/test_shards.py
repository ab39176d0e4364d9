"""Which files are joined to one sweep, and which are refused, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from copies import replace
from made_results import HEADER, end, in_file, record

from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.results import json_lines
from w8a8_bench.results.json_lines import Results, StoreError, write_new
from w8a8_bench.results.record import RunHeader
from w8a8_bench.results.shards import Shard, join

TOTAL = 7
PLAN = {"command": "square_bench", "comparisons": TOTAL, "cells": "abc", "seed": 0, "data": "normal", "rigor": "quick"}
SETTINGS = {"seed": 0, "timer": "graph", "measures": ["time_host"], "stop": {"target": 0.01}}
ENVIRONMENT = {"torch": "2.13.0", "driver": "580.1", "source": "0123", "providers": {"triton": "3.6"}}


def gpu(uuid: str, name: str = "NVIDIA H200") -> dict[str, object]:
    return {"kind": "cuda", "index": 0, "name": name, "uuid": uuid}


def header(number: int, count: int = 3, **changes: object) -> RunHeader:
    """That of a shard; `changes` go where they belong: the plan, the settings or the environment."""
    own = {key: changes.pop(key) for key in ("device", "devices", "resumed") if key in changes}
    device = own.pop("device", gpu(f"GPU-{number}"))
    made = replace(
        HEADER,
        plan={**PLAN, "shard": f"{number}/{count}", **{k: v for k, v in changes.items() if k in (*PLAN, "shard")}},
        settings={**SETTINGS, **{k: v for k, v in changes.items() if k in SETTINGS}},
        environment={**ENVIRONMENT, **{k: v for k, v in changes.items() if k in ENVIRONMENT}},
        device=device,
        devices=(device,),
        resumed=False,
    )
    return replace(made, **own)


def part(number: int, count: int = 3, *, of: RunHeader | None = None, indices: Sequence[int] | None = None) -> Results:
    own = range(number - 1, TOTAL, count) if indices is None else indices
    records = [record(BASELINE, 1e-5, comparison=index, device=f"GPU-{number}") for index in own]
    return in_file(records, [end([one]) for one in records], of or header(number, count), path=f"{number}.jsonl")


def refusal(*files: Results, partial: bool = False) -> str:
    with pytest.raises(StoreError) as caught:
        join(files, partial=partial)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("text", ["1/1", "2/8", "8/8"])
def test_a_shard_reads_as_it_is_written(text):
    assert str(Shard.parse(text)) == text


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "0/0", "2", "2/", "/3", "-1/3", "1/3/3", "1 /3", "1.0/3", "٣/4"])
def test_what_is_no_share_is_refused_with_the_value(text):
    with pytest.raises(ValueError, match="expected I/N") as caught:
        Shard.parse(text)
    assert str(caught.value).startswith(repr(text))


def test_shards_have_every_comparison_once():
    for count in (1, 2, 3, 8):
        shards = [Shard(number, count) for number in range(1, count + 1)]
        assert all([shard.has(index) for shard in shards].count(True) == 1 for index in range(20))
    assert [index for index in range(8) if Shard(2, 3).has(index)] == [1, 4, 7]


def test_shards_in_any_order_are_one_sweep_in_the_order_of_the_plan(tmp_path):
    joined = join([part(2), part(3), part(1)])
    assert [one.end.index for one in joined.comparisons] == list(range(TOTAL))
    assert joined.missing == 0
    assert joined.header == replace(
        header(1), plan={**PLAN, "shard": None}, devices=(gpu("GPU-1"), gpu("GPU-2"), gpu("GPU-3"))
    )
    write_new(tmp_path / "all.jsonl", joined.header, joined.comparisons)
    read = json_lines.read(tmp_path / "all.jsonl")
    assert [one.uuid for one in read.comparisons] == [f"GPU-{1 + index % 3}" for index in range(TOTAL)]
    assert read.warnings == () and read.headers == (joined.header,)


def test_devices_are_listed_once_and_the_first_is_the_first_shards():
    both = (gpu("GPU-1"), gpu("GPU-9"))
    first = header(1, devices=both)
    second = header(2, device=both[1], devices=both[::-1])
    third = header(3, device={**gpu("GPU-1"), "index": 5})
    joined = join([part(3, of=third), part(2, of=second), part(1, of=first)])
    assert joined.header.devices == both
    assert joined.header.device == both[0]


def test_cpus_without_a_uuid_are_one_device():
    cpus = [{"kind": "cpu", "name": "EPYC", "uuid": None, "available_bytes": free} for free in (1, 2, 3)]
    joined = join([part(number, of=header(number, device=cpus[number - 1])) for number in (1, 2, 3)])
    assert joined.header.devices == (cpus[0],)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cells": "abd"}, "other shapes, kernels, schemes or activations"),
        ({"comparisons": 8}, "other shapes, kernels, schemes or activations"),
        ({"command": "model_bench"}, "its command is "),
        ({"seed": 1}, "its seed is "),
        ({"data": "zeros"}, "its data is "),
        ({"rigor": "publish"}, "its rigor is "),
        ({"timer": "event"}, "its timer is "),
        ({"measures": ["time_hot_l2"]}, "its measures is "),
        ({"stop": {"target": 0.02}}, "its stop is "),
        ({"torch": "2.14.0"}, "its torch is "),
        ({"driver": "590.1"}, "its driver is "),
        ({"source": "4567"}, "its source is "),
        ({"providers": {"triton": "3.7"}}, "its providers.triton is "),
        ({"providers": {"triton": "3.6", "vllm": "0.33"}}, "its providers.vllm is "),
        ({"device": gpu("GPU-7", "NVIDIA H100")}, "its device is "),
        ({"shard": "2/4"}, "it is shard "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_file_of_another_sweep_is_refused_by_name(number, change, says):
    files = [part(one, of=header(one, **(change if one == number else {}))) for one in (1, 2, 3)]
    line = refusal(*files, partial=True)
    assert says in line
    assert ".jsonl does not belong to the sweep of " in line and f"{number}.jsonl" in line


def test_a_shard_that_was_resumed_under_other_conditions_is_refused():
    changed = replace(part(2), headers=(header(2), header(2, driver="590.1", resumed=True)))
    assert refusal(part(1), changed, part(3)) == (
        "2.jsonl does not belong to the sweep of 1.jsonl: its driver is '590.1' since it was resumed, "
        "and there it is '580.1'"
    )
    same = replace(part(2), headers=(header(2), header(2, device=gpu("GPU-8"), resumed=True)))
    assert gpu("GPU-8") in join([part(1), same, part(3)]).header.devices


def test_a_file_that_is_no_shard_is_refused_by_name():
    whole = replace(part(2), headers=(replace(HEADER, plan=PLAN),))
    assert refusal(part(1), whole, part(3)) == "2.jsonl is no shard: it was measured without --shard"
    assert "is no shard" in refusal(part(1), replace(whole, headers=(header(2, shard=None),)))
    foreign = replace(whole, headers=(header(2, shard="9/3"),))
    assert "2.jsonl is no shard of this program: its shard is '9/3'" in refusal(part(1), foreign)


@pytest.mark.parametrize("total", [None, "7", 2, 10**30])
def test_a_plan_of_no_number_of_shapes_is_refused(total):
    files = [part(number, of=header(number, comparisons=total)) for number in (1, 2, 3)]
    assert "1.jsonl is no shard of this program" in refusal(*files, partial=True)


def test_a_shard_that_is_there_twice_is_refused_with_both_names():
    again = replace(part(2), path=Path("again.jsonl"))
    assert refusal(part(1), part(2), again, part(3), partial=True) == (
        "2.jsonl and again.jsonl are both shard 2/3: leave one out"
    )


@pytest.mark.parametrize(
    ("indices", "says"), [((1, 4, 1), "comparison 1, twice"), ((1, 5), "comparison 5, which is not in shard 2/3")]
)
def test_a_shard_with_comparisons_that_are_not_its_own_is_refused(indices, says):
    assert says in refusal(part(1), part(2, indices=indices), part(3), partial=True)
    assert "which is not in shard" in refusal(part(1), part(2, indices=(1, 10)), part(3), partial=True)


def test_missing_shards_are_named():
    assert refusal(part(1), part(3)) == "shard is missing: 2/3; --partial joins what there is"
    assert refusal(part(2)) == "shards are missing: 1/3, 3/3; --partial joins what there is"
    joined = join([part(3), part(2)], partial=True)
    assert [one.end.index for one in joined.comparisons] == [1, 2, 4, 5]
    assert joined.missing == 3
    assert joined.header.device == gpu("GPU-2")


def test_a_shard_that_is_not_finished_is_named_with_what_it_lacks():
    files = [part(1, indices=(0, 6)), part(2, indices=()), part(3)]
    assert refusal(*files) == (
        "1.jsonl lacks 1 of its 3 shapes, 2.jsonl lacks 2 of its 2 shapes; --partial joins what there is"
    )
    joined = join(files, partial=True)
    assert ([one.end.index for one in joined.comparisons], joined.missing) == ([0, 2, 5, 6], 3)
