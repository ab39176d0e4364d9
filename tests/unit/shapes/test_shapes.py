"""Shape sources: ends, splits and layers as promised, and one clear line for whatever can't be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_configs import BUILT_IN, OTHERS

from w8a8_bench.problem import GemmShape
from w8a8_bench.shapes import batch_sizes, csv_file
from w8a8_bench.shapes.models import MODELS, all_model_shapes, cut_blocks, model_shapes
from w8a8_bench.shapes.steps import range_, square

# Worked out by hand from each model's config.json, apart from the code under test: (layer, k, n, split).
LLAMA_8B = [
    ("qkv_proj", 4096, 6144, "n"), ("o_proj", 4096, 4096, "k"),
    ("gate_up_proj", 4096, 28672, "n"), ("down_proj", 14336, 4096, "k"),
]  # fmt: skip
LLAMA_70B = [
    ("qkv_proj", 8192, 10240, "n"), ("o_proj", 8192, 8192, "k"),
    ("gate_up_proj", 8192, 57344, "n"), ("down_proj", 28672, 8192, "k"),
]  # fmt: skip
LLAMA4_EXPERTS = [
    ("shared_experts.gate_up_proj", 5120, 16384, "n"), ("shared_experts.down_proj", 8192, 5120, "k"),
    ("experts.gate_up_proj", 5120, 16384, "n"), ("experts.down_proj", 8192, 5120, "k"),
]  # fmt: skip
EXPECTED = {
    "mistralai/Mistral-7B-v0.1": LLAMA_8B,
    "meta-llama/Llama-2-7b-hf": [
        ("qkv_proj", 4096, 12288, "n"), ("o_proj", 4096, 4096, "k"),
        ("gate_up_proj", 4096, 22016, "n"), ("down_proj", 11008, 4096, "k"),
    ],
    "meta-llama/Llama-2-13b-hf": [
        ("qkv_proj", 5120, 15360, "n"), ("o_proj", 5120, 5120, "k"),
        ("gate_up_proj", 5120, 27648, "n"), ("down_proj", 13824, 5120, "k"),
    ],
    "meta-llama/Llama-2-70b-hf": LLAMA_70B,
    "meta-llama/Llama-3-8b": LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_8B,
    "meta-llama/Llama-3.1-405b-hf": [
        ("qkv_proj", 16384, 18432, "n"), ("o_proj", 16384, 16384, "k"),
        ("gate_up_proj", 16384, 106496, "n"), ("down_proj", 53248, 16384, "k"),
    ],
    "meta-llama/Llama-3.3-70B-Instruct": LLAMA_70B,
    "mistralai/Mistral-Large-Instruct-2407": [
        ("qkv_proj", 12288, 14336, "n"), ("o_proj", 12288, 12288, "k"),
        ("gate_up_proj", 12288, 57344, "n"), ("down_proj", 28672, 12288, "k"),
    ],
    "Qwen/Qwen2.5-7B-Instruct": [
        ("qkv_proj", 3584, 4608, "n"), ("o_proj", 3584, 3584, "k"),
        ("gate_up_proj", 3584, 37888, "n"), ("down_proj", 18944, 3584, "k"),
    ],
    "Qwen/Qwen2.5-32B-Instruct": [
        ("qkv_proj", 5120, 7168, "n"), ("o_proj", 5120, 5120, "k"),
        ("gate_up_proj", 5120, 55296, "n"), ("down_proj", 27648, 5120, "k"),
    ],
    "Qwen/Qwen2.5-72B-Instruct": [
        ("qkv_proj", 8192, 10240, "n"), ("o_proj", 8192, 8192, "k"),
        ("gate_up_proj", 8192, 59136, "n"), ("down_proj", 29568, 8192, "k"),
    ],
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": [
        ("q_proj", 2048, 3072, "n"), ("kv_a_proj_with_mqa", 2048, 576, None), ("kv_b_proj", 512, 4096, "n"),
        ("o_proj", 2048, 2048, "k"), ("gate_up_proj", 2048, 21888, "n"), ("down_proj", 10944, 2048, "k"),
        ("shared_experts.gate_up_proj", 2048, 5632, "n"), ("shared_experts.down_proj", 2816, 2048, "k"),
        ("experts.gate_up_proj", 2048, 2816, "n"), ("experts.down_proj", 1408, 2048, "k"),
    ],
    "CohereLabs/c4ai-command-a-03-2025": [
        ("qkv_proj", 12288, 14336, "n"), ("o_proj", 12288, 12288, "k"),
        ("gate_up_proj", 12288, 73728, "n"), ("down_proj", 36864, 12288, "k"),
    ],
    "Qwen/Qwen3-8B": [
        ("qkv_proj", 4096, 6144, "n"), ("o_proj", 4096, 4096, "k"),
        ("gate_up_proj", 4096, 24576, "n"), ("down_proj", 12288, 4096, "k"),
    ],
    "Qwen/Qwen3-14B": [
        ("qkv_proj", 5120, 7168, "n"), ("o_proj", 5120, 5120, "k"),
        ("gate_up_proj", 5120, 34816, "n"), ("down_proj", 17408, 5120, "k"),
    ],
    "Qwen/Qwen3-32B": [
        ("qkv_proj", 5120, 10240, "n"), ("o_proj", 8192, 5120, "k"),
        ("gate_up_proj", 5120, 51200, "n"), ("down_proj", 25600, 5120, "k"),
    ],
    "mistralai/Mistral-Small-24B-Instruct-2501": [
        ("qkv_proj", 5120, 6144, "n"), ("o_proj", 4096, 5120, "k"),
        ("gate_up_proj", 5120, 65536, "n"), ("down_proj", 32768, 5120, "k"),
    ],
    "microsoft/phi-4": [
        ("qkv_proj", 5120, 7680, "n"), ("o_proj", 5120, 5120, "k"),
        ("gate_up_proj", 5120, 35840, "n"), ("down_proj", 17920, 5120, "k"),
    ],
    "google/gemma-3-12b-it": [
        ("qkv_proj", 3840, 8192, "n"), ("o_proj", 4096, 3840, "k"),
        ("gate_up_proj", 3840, 30720, "n"), ("down_proj", 15360, 3840, "k"),
    ],
    "google/gemma-3-27b-it": [
        ("qkv_proj", 5376, 8192, "n"), ("o_proj", 4096, 5376, "k"),
        ("gate_up_proj", 5376, 43008, "n"), ("down_proj", 21504, 5376, "k"),
    ],
    "deepseek-ai/DeepSeek-V3": [
        ("q_a_proj", 7168, 1536, None), ("q_b_proj", 1536, 24576, "n"),
        ("kv_a_proj_with_mqa", 7168, 576, None), ("kv_b_proj", 512, 32768, "n"), ("o_proj", 16384, 7168, "k"),
        ("gate_up_proj", 7168, 36864, "n"), ("down_proj", 18432, 7168, "k"),
        ("shared_experts.gate_up_proj", 7168, 4096, "n"), ("shared_experts.down_proj", 2048, 7168, "k"),
        ("experts.gate_up_proj", 7168, 4096, "n"), ("experts.down_proj", 2048, 7168, "k"),
    ],
    "zai-org/GLM-4.5": [
        ("qkv_proj", 5120, 14336, "n"), ("o_proj", 12288, 5120, "k"),
        ("gate_up_proj", 5120, 24576, "n"), ("down_proj", 12288, 5120, "k"),
        ("shared_experts.gate_up_proj", 5120, 3072, "n"), ("shared_experts.down_proj", 1536, 5120, "k"),
        ("experts.gate_up_proj", 5120, 3072, "n"), ("experts.down_proj", 1536, 5120, "k"),
    ],
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": [
        ("qkv_proj", 5120, 7168, "n"), ("o_proj", 5120, 5120, "k"), *LLAMA4_EXPERTS,
    ],
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": [
        ("qkv_proj", 5120, 7168, "n"), ("o_proj", 5120, 5120, "k"),
        ("gate_up_proj", 5120, 32768, "n"), ("down_proj", 16384, 5120, "k"), *LLAMA4_EXPERTS,
    ],
}  # fmt: skip


def message(call, *args, **kwargs) -> str:
    """The text of the ValueError that `call` raises: one line."""
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    (line,) = str(caught.value).splitlines()
    return line


def test_square_keeps_its_end() -> None:
    assert [where.shape for where in square(128, 512, 128)] == [GemmShape(m=d, n=d, k=d) for d in (128, 256, 384, 512)]
    assert [where.shape.m for where in square(128, 500, 128)] == [128, 256, 384]
    assert len(square(7, 7, 1)) == 1


def test_range_leaves_its_end_out_and_keeps_constants() -> None:
    assert [w.shape for w in range_(16, 48, 16, n=7, k=5)] == [GemmShape(m=m, n=7, k=5) for m in (16, 32)]
    assert [w.shape for w in range_(16, 17, 16)] == [GemmShape(m=16, n=16, k=16)]
    assert [w.shape for w in range_(2, 3, 1, m=9)] == [GemmShape(m=9, n=2, k=2)]


@pytest.mark.parametrize("steps", [square, range_])
def test_steps_that_lead_nowhere_are_refused_with_the_flag_to_change(steps) -> None:
    assert message(steps, 512, 128, 1) == "--dim-start 512 is greater than --dim-end 128"
    assert message(steps, 8, 9, 0) == "--dim-increment 0: expected at least 1"
    assert message(steps, 8, 9, -1) == "--dim-increment -1: expected at least 1"
    assert message(steps, 0, 9, 1) == "--dim-start 0: expected at least 1"
    assert "at most 2^31" in message(steps, 65536, 65537, 1)
    assert "choose a larger --dim-increment" in message(steps, 1, 2**60, 1)


def test_range_without_a_shape_or_with_a_constant_of_nothing_is_refused() -> None:
    assert "raise --dim-end" in message(range_, 128, 128, 16)
    for name in "mnk":
        assert message(range_, 8, 9, 1, **{name: 0}) == f"--{name}-constant 0: expected at least 1"


@pytest.mark.parametrize("model", EXPECTED)
def test_every_row_of_the_model_table_is_what_its_configuration_says(model: str) -> None:
    assert [(layer.name, layer.k, layer.n, layer.split) for layer in MODELS[model]] == EXPECTED[model]


def test_model_table_holds_the_promised_models_in_order() -> None:
    assert list(MODELS) == list(EXPECTED)


def test_model_shapes_change_layer_first_then_batch_then_tp_then_model() -> None:
    models = ("meta-llama/Llama-3-8b", "Qwen/Qwen2.5-7B-Instruct")
    shapes = model_shapes(models, (1, 2), (1, 16))
    labels = [(w.labels["model"], w.labels["tp"], w.shape.m, w.labels["layer"]) for w in shapes]
    layers = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert labels == [(m, tp, b, layer) for m in models for tp in (1, 2) for b in (1, 16) for layer in layers]
    split = {w.labels["layer"]: w.shape for w in shapes[8:12]}
    assert split["qkv_proj"] == GemmShape(m=1, n=3072, k=4096)
    assert split["down_proj"] == GemmShape(m=1, n=4096, k=7168)


def test_replicated_layer_stays_whole_under_tp() -> None:
    shapes = model_shapes(["deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"], [16], [1])
    sizes = {w.labels["layer"]: (w.shape.k, w.shape.n) for w in shapes}
    assert sizes["kv_a_proj_with_mqa"] == (2048, 576)
    assert sizes["kv_b_proj"] == (512, 256)


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("meta-llama/Llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama31-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-lama/Llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("qwen2.5-72b", "Qwen/Qwen2.5-72B-Instruct"),
        ("QWEN/qwen2.5 72b", "Qwen/Qwen2.5-72B-Instruct"),
        ("command-a", "CohereLabs/c4ai-command-a-03-2025"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest_names(typed, nearest) -> None:
    assert message(model_shapes, [typed], [1], [1]).startswith(f"model {typed!r} is unknown: did you mean {nearest}")


def test_a_path_that_does_not_exist_is_no_unknown_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    remedy = "expected a name of `list models`, or the path of a config.json"
    for path in ("gone.json", "./gone", "/no/such", "models/gone/config.json"):
        assert message(model_shapes, [path], [1], [1]) == f"there is no file or directory {path!r}: {remedy}"
    for name in ("zzzz", "", "zz/zz"):
        assert message(model_shapes, [name], [1], [1]) == f"model {name!r} is unknown: {remedy}"
    assert message(model_shapes, ["meta-llama/Llama-2-7b-hf/config.json"], [1], [1]).startswith(
        "there is no file or directory 'meta-llama/Llama-2-7b-hf/config.json': did you mean meta-llama/Llama-2-7b-hf"
    )
    assert message(model_shapes, [f"{'x' * 300}.json"], [1], [1]).endswith("can't be read: File name too long")


def test_a_model_may_be_the_path_of_a_configuration(tmp_path, monkeypatch) -> None:
    config = {**BUILT_IN["meta-llama/Llama-2-7b-hf"], "num_hidden_layers": 5}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    for path in ("mine/config.json", "./mine", "mine/", str(tmp_path / "mine" / "config.json")):
        first, *_ = model_shapes([path], [2], [16])
        assert first.shape == GemmShape(m=16, n=6144, k=4096)
        assert first.labels == {"model": "mine", "layer": "qkv_proj", "tp": 2, "count": 5}


def test_a_configuration_has_one_name_wherever_it_lies(tmp_path, monkeypatch) -> None:
    config = json.dumps(BUILT_IN["meta-llama/Llama-2-7b-hf"])
    paths = [tmp_path / name for name in ("a/tiny.json", "b/tiny.json", "c/tiny/config.json")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(config)
    names = [model_shapes([str(path)], [1], [1])[0].labels["model"] for path in (*paths, paths[2].parent)]
    assert names == ["tiny"] * 4
    both = model_shapes([str(path) for path in paths[:2]], [1], [1])
    assert {shape.labels["model"] for shape in both} == {str(path) for path in paths[:2]}
    monkeypatch.chdir(tmp_path / "c/tiny")
    assert model_shapes(["config.json"], [1], [1])[0].labels["model"] == "tiny"


def test_a_model_in_the_cache_of_the_hub_is_called_as_the_hub_calls_it(tmp_path) -> None:
    config = json.dumps({**BUILT_IN["meta-llama/Llama-2-7b-hf"], "num_hidden_layers": 3})
    for folder, name in (("models--meta-llama--Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"), ("models--gpt2", "gpt2")):
        for revision in ("01c7f73d", "8a0442e8"):
            snapshot = tmp_path / folder / "snapshots" / revision
            snapshot.mkdir(parents=True)
            (snapshot / "config.json").write_text(config)
            for path in (snapshot, snapshot / "config.json"):
                assert model_shapes([str(path)], [1], [1])[0].labels["model"] == name
    elsewhere = tmp_path / "models--a--b" / "config.json"
    elsewhere.parent.mkdir()
    elsewhere.write_text(config)
    assert model_shapes([str(elsewhere)], [1], [1])[0].labels["model"] == "models--a--b"


def test_a_name_of_the_table_stays_a_name_where_a_path_is_called_so_too(tmp_path, monkeypatch) -> None:
    name = "meta-llama/Llama-2-7b-hf"
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "config.json").write_text(json.dumps({**BUILT_IN[name], "num_hidden_layers": 5}))
    monkeypatch.chdir(tmp_path)
    assert model_shapes([name], [1], [1])[0].labels["count"] == 32
    assert model_shapes([f"./{name}"], [1], [1])[0].labels["count"] == 5


def test_a_path_that_gives_no_layers_is_one_line_with_the_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message(model_shapes, ["./"], [1], [1]) == "config.json can't be read: No such file or directory"
    assert "expected printable characters" in message(model_shapes, ["a\nb.json"], [1], [1])
    huge = {**BUILT_IN["meta-llama/Llama-2-7b-hf"], "intermediate_size": 2**24}
    (tmp_path / "huge.json").write_text(json.dumps(huge))
    assert message(model_shapes, ["huge.json"], [1], [1]) == (
        "huge.json, gate_up_proj: k x n of m=1 n=33554432 k=4096 has 137438953472 elements: at most 2^31 = 2147483648"
    )


def test_labels_count_the_gemms_of_a_forward_pass_but_for_those_of_routed_experts() -> None:
    shapes = model_shapes(["deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"], [1], [16])
    counts = {w.labels["layer"]: w.labels.get("count") for w in shapes}
    assert counts["q_proj"] == 27
    assert counts["down_proj"] == 1
    assert counts["shared_experts.down_proj"] == 26
    assert counts["experts.down_proj"] is None


def test_tp_that_does_not_divide_is_refused_with_model_layer_and_units() -> None:
    assert message(model_shapes, ["meta-llama/Llama-3-8b"], [1, 5], [1]) == (
        "TP 5 does not divide the 32 attention heads of qkv_proj in meta-llama/Llama-3-8b: choose another TP size"
    )
    # 3584 features can be split in 8, but 28 heads can't.
    assert "28 attention heads of qkv_proj" in message(model_shapes, ["Qwen/Qwen2.5-7B-Instruct"], [8], [1])


def test_key_value_heads_of_a_model_are_replicated_beyond_their_number() -> None:
    """Llama-3-8b has 8 of them: at TP 16, 2 query heads, a key head and a value head of 128 each."""
    (qkv, *_) = model_shapes(["meta-llama/Llama-3-8b"], [16], [1])
    assert qkv.shape == GemmShape(m=1, n=512, k=4096)


def test_all_models_leave_out_what_tp_does_not_divide_and_say_so() -> None:
    shapes, left_out = all_model_shapes([1, 8], [16])
    assert left_out == (
        "TP 8 does not divide the 28 attention heads of qkv_proj in Qwen/Qwen2.5-7B-Instruct: choose another TP size",
        "TP 8 neither divides nor is a multiple of the 10 KV heads of qkv_proj in microsoft/phi-4: "
        "choose another TP size",
    )
    pairs = list(dict.fromkeys((w.labels["model"], w.labels["tp"]) for w in shapes))
    lacking = (("Qwen/Qwen2.5-7B-Instruct", 8), ("microsoft/phi-4", 8))
    assert pairs == [(m, tp) for m in MODELS for tp in (1, 8) if (m, tp) not in lacking]
    assert all_model_shapes([1], [16]) == (model_shapes(list(MODELS), [1], [16]), ())
    assert "TP 3 does not divide the 32 attention heads" in message(all_model_shapes, [3], [1])
    assert message(all_model_shapes, [], [1]) == "no TP size was given: expected at least one"
    assert message(all_model_shapes, [1], [0]) == "batch size 0: expected at least 1"


def test_cliffs_stand_for_both_sides_of_every_edge_and_mix_with_numbers() -> None:
    sizes = batch_sizes.parse(["cliffs"])
    assert sizes[:17] == tuple(range(1, 18))
    for edge in (32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 8192):
        assert {edge - 1, edge, edge + 1} <= set(sizes)
    assert list(sizes) == sorted(set(sizes))
    assert batch_sizes.parse(["cliffs", "20000", "16"]) == (*sizes, 20000)
    assert batch_sizes.parse([1, 16, 16]) == (1, 16)
    for word in ("cliff", "", "1.5", "1e3"):
        assert message(batch_sizes.parse, [word]) == f"--batch-sizes {word!r}: expected whole numbers, or cliffs"


def test_sizes_below_one_and_empty_lists_are_refused() -> None:
    model = ["meta-llama/Llama-3-8b"]
    assert message(model_shapes, model, [0], [1]) == "TP size 0: expected at least 1"
    assert message(model_shapes, model, [1], [-16]) == "batch size -16: expected at least 1"
    for lists in (([], [1], [1]), (model, [], [1]), (model, [1], [])):
        assert "expected at least one" in message(model_shapes, *lists)


def csv_of(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "shapes.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_columns_stand_in_any_order_and_others_become_labels(tmp_path) -> None:
    text = '\ufefflayer, N ,m,k,note\nqkv_proj,6144, 16 ,4096,\n\n  \n"o, proj",1,2,3,x\r\n'
    one, two = csv_file.read(csv_of(tmp_path, text))
    assert (one.shape, one.labels) == (GemmShape(m=16, n=6144, k=4096), {"layer": "qkv_proj"})
    assert (two.shape, two.labels) == (GemmShape(m=2, n=1, k=3), {"layer": "o, proj", "note": "x"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("m,n,k\n", "has a header but no rows"),
        ("m,n\n1,2\n", "line 1: the header has no column k"),
        ("16,16,16\n", "line 1: the header has no column m and no column n and no column k"),
        ("m,n,k,M\n1,2,3,4\n", "line 1: the header has the column 'm' twice"),
        ("m,n,k,\n1,2,3,4\n", "line 1: column 4 of the header has no name"),
        ("m,n,k\n1,2,3\n1,2\n", "line 3: 2 fields, but the header has 3"),
        ("m,n,k\n1,2,3,4\n", "line 2: 4 fields, but the header has 3"),
        ("m,n,k\n1,x,3\n", "line 2: n='x': expected a whole number"),
        ("m,n,k\n1,1e3,3\n", "line 2: n='1e3': expected a whole number"),
        ("m,n,k\n1,0x10,3\n", "line 2: n='0x10': expected a whole number"),
        ("m,n,k\n1,1_0,3\n", "line 2: n='1_0': expected a whole number"),
        ("m,n,k\n1,٣,3\n", "line 2: n='٣': expected a whole number"),
        ("m,n,k\n1,,3\n", "line 2: n='': expected a whole number"),
        ("m,n,k\n0,2,3\n", "line 2: m=0: expected at least 1"),
        ("m,n,k\n-5,2,3\n", "line 2: m=-5: expected at least 1"),
        ("m,n,k\n65536,65536,1\n", "at most 2^31"),
        ('m,n,k\n1,"2,3\n', "line 2: unexpected end of data"),
        (b"m,n,k\n1,2,3\n1,\xff,3\n", "line 3: not UTF-8"),
    ],
)
def test_a_bad_csv_is_one_line_with_path_place_and_reason(tmp_path, text, expected) -> None:
    path = csv_of(tmp_path, text)
    line = message(csv_file.read, path)
    assert line.startswith(str(path))
    assert expected in line


def test_a_csv_that_is_no_file_is_one_line(tmp_path) -> None:
    assert "No such file" in message(csv_file.read, tmp_path / "gone.csv")
    assert "directory" in message(csv_file.read, tmp_path)
    assert "larger than 16 MiB" in message(csv_file.read, Path("/dev/zero"))


def test_tp_that_cuts_the_blocks_of_a_weight_is_named_with_what_is_left(tmp_path) -> None:
    """DeepSeek-V3's experts have 2048 features, its dense MLPs 18432; kv_a_proj_with_mqa is whole on every rank."""
    path = tmp_path / "deepseek.json"
    path.write_text(json.dumps(OTHERS["low rank for queries: deepseek-ai/DeepSeek-V3"][0]))
    assert cut_blocks([str(path)], [1, 8, 16]) == ()
    (line,) = cut_blocks([str(path)], [16, 32])
    assert line.startswith("TP 32 cuts the 128 x 128 blocks of ")
    for part in ("gate_up_proj (n=2 x 576)", "down_proj (k=576)", "experts.down_proj (k=64)"):
        assert part in line
    assert "kv_a" not in line
    assert cut_blocks(["meta-llama/Llama-3.1-8B-Instruct"], [1, 2, 4, 8]) == ()
