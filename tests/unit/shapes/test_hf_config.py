"""config.json: published ones give the layers that they configure, and whatever else is there one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_configs import BUILT_IN, LLAMA_8B, OTHERS, PARAMETERS

from w8a8_bench.shapes import hf_config
from w8a8_bench.shapes.layers import Layer
from w8a8_bench.shapes.models import MODELS

DEEPSEEK = BUILT_IN["deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"]

NOT_NEEDED = {"num_key_value_heads", "num_experts_per_tok", "moe_layer_freq", "vocab_size"}
"""Of DeepSeek's fields."""


def parsed(config: object) -> tuple[Layer, ...]:
    return hf_config.parse(json.dumps(config).encode())


def refusal(data: bytes) -> str:
    with pytest.raises(ValueError) as caught:
        hf_config.parse(data)
    (line,) = str(caught.value).splitlines()
    return line


def rows(layers: tuple[Layer, ...]) -> list[tuple[int | None, str, int, int]]:
    return [(layer.count, layer.name, layer.k, layer.n) for layer in layers]


@pytest.mark.parametrize("model", BUILT_IN)
def test_the_table_of_models_is_what_published_configurations_say(model) -> None:
    assert parsed(BUILT_IN[model]) == MODELS[model]


def test_every_model_of_the_table_is_checked_against_its_configuration() -> None:
    assert set(BUILT_IN) == set(MODELS) == set(PARAMETERS)


@pytest.mark.parametrize("model", BUILT_IN)
def test_counts_make_the_published_number_of_parameters(model) -> None:
    """Layers times counts, with the embeddings, but for norms, biases and routers: within 1% of what the page says."""
    config = BUILT_IN[model].get("text_config", BUILT_IN[model])
    experts = 0
    if "n_routed_experts" in config:
        experts = config["n_routed_experts"] * (config["num_hidden_layers"] - config["first_k_dense_replace"])
    elif "num_local_experts" in config:
        experts = config["num_local_experts"] * len(config["moe_layers"])
    weights = sum(layer.k * layer.n * (experts if layer.count is None else layer.count) for layer in MODELS[model])
    embeddings = config["vocab_size"] * config["hidden_size"] * (1 if config.get("tie_word_embeddings") else 2)
    assert (weights + embeddings) / 1e9 == pytest.approx(PARAMETERS[model], rel=0.01)


@pytest.mark.parametrize("model", OTHERS)
def test_other_types_have_the_layers_worked_out_by_hand(model) -> None:
    config, expected = OTHERS[model]
    assert rows(parsed(config)) == expected


def test_every_rule_has_a_configuration_here() -> None:
    configs = [*BUILT_IN.values(), *(config for config, _ in OTHERS.values())]
    types = {config.get("text_config", config)["model_type"] for config in configs}
    assert types == set(hf_config.RULES)


def test_what_stands_for_an_absent_field_is_what_transformers_has() -> None:
    bare = {name: LLAMA_8B[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    # hidden_size 4096 and 32 heads: a head_dim of 128 where the class has none.
    expected = {
        "llama": 3 * 4096,
        "mistral": (32 + 2 * 8) * 128,
        "qwen2": 3 * 4096,
        "qwen3": 3 * 4096,
        "phi3": 3 * 4096,
        "gemma2": (32 + 2 * 4) * 256,
        "gemma3_text": (32 + 2 * 4) * 256,
        "granite": 3 * 4096,
        "cohere": 3 * 4096,
        "cohere2": 3 * 4096,
    }
    for model_type, n in expected.items():
        config = {**bare, "model_type": model_type, "num_attention_heads": 32}
        assert parsed(config)[0].n == n, model_type
        assert parsed({**config, "num_key_value_heads": None})[0].n == 3 * 32 * (256 if "gemma" in model_type else 128)
    wide = {**bare, "num_attention_heads": 64, "num_key_value_heads": 64, "hidden_size": 2048}
    assert parsed({**wide, "model_type": "qwen3"})[0].n == 3 * 64 * 128
    assert parsed({**wide, "model_type": "llama"})[0].n == 3 * 64 * 32


def test_the_blocks_with_experts_of_llama_4_are_those_listed_before_the_step() -> None:
    text = BUILT_IN["meta-llama/Llama-4-Scout-17B-16E-Instruct"]["text_config"]
    counts = [layer.count for layer in parsed({"model_type": "llama4", "text_config": {**text, "moe_layers": [0, 5]}})]
    assert counts == [48, 48, 46, 46, 2, 2, None, None]
    for wrong in ("all", list(range(49))):
        config = {"model_type": "llama4", "text_config": {**text, "moe_layers": wrong}}
        assert refusal(json.dumps(config).encode()).endswith(": expected a list of at most 48")


def test_a_language_model_inside_another_may_leave_out_what_its_class_has() -> None:
    """As llava-1.5-7b-hf does; at the top level a missing size is a damaged file."""
    layers = parsed({"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}})
    assert [(layer.name, layer.n, layer.k, layer.count) for layer in layers] == [
        ("qkv_proj", 12288, 4096, 32),
        ("o_proj", 4096, 4096, 32),
        ("gate_up_proj", 22016, 4096, 32),
        ("down_proj", 4096, 11008, 32),
    ]
    pixtral = parsed({"model_type": "pixtral", "text_config": {"model_type": "mistral"}})
    assert [layer.n for layer in pixtral] == [6144, 4096, 28672, 4096]
    assert refusal(b'{"model_type": "llama"}') == "hidden_size is missing"


def test_key_value_heads_are_replicated_where_tp_exceeds_them_and_never_torn() -> None:
    qkv = parsed(LLAMA_8B)[0]  # 32 heads and 8 KV heads of 128
    assert [qkv.sizes(tp)[1] for tp in (1, 2, 8, 16, 32)] == [6144, 3072, 768, 512, 384]
    with pytest.raises(ValueError, match="TP 64 does not divide the 32 attention heads of qkv_proj"):
        qkv.sizes(64)
    three = parsed({**LLAMA_8B, "num_attention_heads": 48, "num_key_value_heads": 12, "head_dim": 64})[0]
    assert three.sizes(24)[1] == (2 + 2) * 64
    with pytest.raises(ValueError, match="TP 16 neither divides nor is a multiple of the 12 KV heads of qkv_proj"):
        three.sizes(16)


def test_blocks_with_experts_begin_where_the_configuration_says() -> None:
    def counts(**changes: object) -> list[int | None]:
        by_name = {layer.name: layer.count for layer in parsed({**DEEPSEEK, **changes})}
        return [by_name.get(name) for name in ("q_proj", "gate_up_proj", "shared_experts.gate_up_proj")]

    assert counts() == [27, 1, 26]
    assert counts(first_k_dense_replace=0) == [27, None, 27]
    assert counts(first_k_dense_replace=27) == [27, 27, None]
    assert counts(first_k_dense_replace=40) == [27, 27, None]
    # Blocks 2, 4, ..., 26.
    assert counts(moe_layer_freq=2) == [27, 14, 13]
    assert counts(n_routed_experts=None) == [27, 27, None]
    assert counts(n_shared_experts=0) == [27, 1, None]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"num_hidden_layers": ...}, "num_hidden_layers is missing"),
        ({"model_type": ...}, f"model_type is missing, so the layers are not known; {hf_config.CSV_INSTEAD}"),
        ({"model_type": 3}, "model_type 3: expected text"),
        ({"hidden_size": "4096"}, 'hidden_size "4096": expected a whole number'),
        ({"hidden_size": 4096.0}, "hidden_size 4096.0: expected a whole number"),
        ({"hidden_size": True}, "hidden_size true: expected a whole number"),
        ({"hidden_size": None}, "hidden_size null: expected a whole number"),
        ({"hidden_size": [1]}, "hidden_size [...]: expected a whole number"),
        ({"hidden_size": 0}, "hidden_size 0: expected at least 1"),
        ({"intermediate_size": -5}, "intermediate_size -5: expected at least 1"),
        ({"num_hidden_layers": 2**24 + 1}, "num_hidden_layers 16777217: expected at most 16777216"),
        ({"hidden_size": 10**90}, "hidden_size 1" + "0" * 56 + "...: expected at most 16777216"),
        ({"hidden_size": "x" * 5000}, 'hidden_size "' + "x" * 56 + "...: expected a whole number"),
        ({"num_key_value_heads": 5}, "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
        (
            {"hidden_size": 4100},
            "hidden_size 4100 is not a multiple of num_attention_heads 32, and there is no head_dim",
        ),
        ({"model_type": "gemma3"}, "text_config is missing"),
        ({"model_type": "llava", "text_config": []}, "text_config [...]: expected an object"),
        ({"model_type": "llava", "text_config": {}}, "text_config.model_type is missing"),
        (
            {"model_type": "x", "text_config": {"model_type": "llama", "hidden_size": 0}},
            "text_config.hidden_size 0: expected at least 1",
        ),
    ],
)
def test_a_wrong_field_is_one_line_with_its_name_its_value_and_what_was_expected(change, expected) -> None:
    config = {name: value for name, value in {**LLAMA_8B, **change}.items() if value is not ...}
    assert refusal(json.dumps(config).encode()) == expected


@pytest.mark.parametrize("name", sorted(set(DEEPSEEK) - NOT_NEEDED))
def test_a_field_that_deepseek_lacks_is_missed(name) -> None:
    without = {other: value for other, value in DEEPSEEK.items() if other != name}
    assert refusal(json.dumps(without).encode()).startswith(f"{name} is missing")


def test_an_unknown_type_names_the_missing_rule_and_the_way_without_one() -> None:
    line = refusal(json.dumps({**LLAMA_8B, "model_type": "mixtral"}).encode())
    assert line.startswith('model_type "mixtral" is not supported: expected one of llama, ')
    assert line.endswith("write its shapes into a CSV file with columns layer,m,n,k and run csv_bench --csv FILE")
    nested = refusal(json.dumps({"model_type": "a", "text_config": {"model_type": "b\n"}}).encode())
    assert nested.startswith('text_config.model_type "b\\n" is not supported')


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not JSON: Expecting value at line 1, column 1"),
        (b'{"a": 1,\n', "not JSON: "),
        (b"[]", "not a configuration: expected a JSON object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"model_type": "\\ud800"}', 'model_type "\\ud800" is not supported'),
    ],
)
def test_what_is_no_configuration_is_one_line(data, expected) -> None:
    assert refusal(data).startswith(expected)


def test_a_mark_of_utf_8_is_no_mistake() -> None:
    assert hf_config.parse(b"\xef\xbb\xbf" + json.dumps(LLAMA_8B).encode()) == parsed(LLAMA_8B)


def test_a_path_is_a_file_or_its_directory_and_stands_before_the_reason(tmp_path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_8B))
    assert hf_config.read(path) == hf_config.read(tmp_path) == parsed(LLAMA_8B)
    path.write_text("{}")
    for given_path, expected in (
        (path, f"{path}: model_type is missing, so the layers are not known; {hf_config.CSV_INSTEAD}"),
        (tmp_path, f"{path}: model_type is missing, so the layers are not known; {hf_config.CSV_INSTEAD}"),
        (tmp_path / "gone.json", f"{tmp_path / 'gone.json'} can't be read: No such file or directory"),
        (Path("/dev/zero"), "/dev/zero is larger than 1 MiB: too large for a model's configuration"),
        (tmp_path / ("x" * 300), f"{tmp_path / ('x' * 300)} can't be read: File name too long"),
    ):
        with pytest.raises(ValueError) as caught:
            hf_config.read(given_path)
        assert str(caught.value) == expected


def test_a_file_of_a_gigabyte_is_not_read(tmp_path) -> None:
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(2**30)
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        hf_config.read(path)


FIELDS = sorted({*LLAMA_8B, *DEEPSEEK, "head_dim", "text_config"})
ODD = st.one_of(
    st.integers(-2, 2**25),
    st.integers(),
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([*hf_config.RULES, "gemma3", "mixtral"]),
    st.lists(st.integers(), max_size=2),
)
CHANGES = st.dictionaries(st.sampled_from(FIELDS), ODD | st.dictionaries(st.sampled_from(FIELDS), ODD), max_size=5)
CONFIGS = st.sampled_from([*BUILT_IN.values(), *(config for config, _ in OTHERS.values())])


def outcome(data: bytes) -> tuple[Layer, ...] | str:
    try:
        return hf_config.parse(data)
    except ValueError as error:
        return str(error)


def shapes_or_one_line(data: bytes) -> None:
    layers = outcome(data)
    if isinstance(layers, str):
        assert len(layers.splitlines()) == 1
        assert len(layers) < 500
    else:
        assert layers
        assert all(layer.k >= 1 and layer.n >= 1 for layer in layers)
        assert all(layer.count is None or layer.count >= 1 for layer in layers)


@given(CONFIGS, CHANGES)
def test_a_configuration_with_other_values_is_shapes_or_one_line(config, changes) -> None:
    shapes_or_one_line(json.dumps({**config, **changes}).encode())


@given(CONFIGS, st.integers(0, 10**6), st.integers(0, 10**6), st.binary(max_size=4))
def test_a_configuration_with_other_bytes_is_shapes_or_one_line(config, start, length, new) -> None:
    data = json.dumps(config).encode()
    start %= len(data)
    shapes_or_one_line(data[:start] + new + data[start + length % 8 :])


@given(st.binary(max_size=50))
def test_any_bytes_are_one_line(data) -> None:
    shapes_or_one_line(data)
