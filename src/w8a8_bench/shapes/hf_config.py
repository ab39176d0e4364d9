"""Layers of a model from its config.json, as the Hugging Face Hub has it for every model.

What a field means, and what stands for one that is absent, is what the configuration classes of `transformers` say
(https://github.com/huggingface/transformers, src/transformers/models/*/configuration_*.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from w8a8_bench.shapes import read_at_most
from w8a8_bench.shapes.layers import Layer, deepseek_layers, llama_layers, llama_moe_layers
from w8a8_bench.text import one_line

FILE_NAME = "config.json"

CSV_INSTEAD = "write its shapes into a CSV file with columns layer,m,n,k and run csv_bench --csv FILE"

MAX_BYTES = 2**20
"""Largest file that is taken for a configuration; the published ones have a few kB."""

MAX_NUMBER = 2**24
"""Largest number of a field: a hundred times the largest of any published model."""


def read(path: Path) -> tuple[Layer, ...]:
    """The layers of the model that `path` configures: a config.json, or the directory that holds one.

    Raises ValueError with the path and the reason: no such file, no JSON, a `model_type` without a rule, a field that
    is missing, of the wrong type or out of range.
    """
    if os.path.isdir(path):
        path = path / FILE_NAME
    data = read_at_most(path, MAX_BYTES, "a model's configuration")
    try:
        return parse(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(data: bytes) -> tuple[Layer, ...]:
    """The layers of the configuration in `data`, JSON in UTF-8. Raises ValueError as `read` does, without a path."""
    fields = _Fields(_loads(data))
    if "model_type" not in fields.values:
        raise ValueError(f"model_type is missing, so the layers are not known; {CSV_INSTEAD}")
    model_type = fields.text("model_type")
    if model_type not in RULES and ("text_config" in fields.values or model_type in MULTIMODAL):
        # A model of text and images: the language model has a configuration of its own inside.
        fields = fields.inside("text_config")
        model_type = fields.text("model_type")
    if model_type not in RULES:
        raise ValueError(
            f"{fields.prefix}model_type {_shown(model_type)} is not supported: expected one of "
            f"{', '.join(RULES)}; {CSV_INSTEAD}"
        )
    return RULES[model_type](fields)


@dataclass(frozen=True)
class _Fields:
    """The fields of one object. `prefix` leads to it in messages: `text_config.` of a nested one."""

    values: Mapping[str, object]
    prefix: str = ""

    def text(self, name: str) -> str:
        value = self._required(name)
        if not isinstance(value, str):
            self._refuse(name, value, "text")
        return value

    def inside(self, name: str) -> _Fields:
        value = self._required(name)
        if not isinstance(value, dict):
            self._refuse(name, value, "an object")
        return _Fields(value, f"{self.prefix}{name}.")

    def number(self, name: str, *, absent: int | None = None, least: int = 1) -> int:
        """The whole number `name`; `absent` stands for one that is not there."""
        if absent is not None and name not in self.values:
            return absent
        value = self._required(name)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(name, value, "a whole number")
        if value < least:
            self._refuse(name, value, f"at least {least}")
        if value > MAX_NUMBER:
            self._refuse(name, value, f"at most {MAX_NUMBER}")
        return value

    def number_or_null(self, name: str, *, least: int = 1) -> int | None:
        return None if self._required(name) is None else self.number(name, least=least)

    def length_or_null(self, name: str, *, most: int) -> int | None:
        """How many entries the list `name` has; None if it is absent or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > most:
            self._refuse(name, value, f"a list of at most {most}")
        return len(value)

    def is_null(self, name: str) -> bool:
        return name in self.values and self.values[name] is None

    def _required(self, name: str) -> object:
        if name not in self.values:
            raise ValueError(f"{self.prefix}{name} is missing")
        return self.values[name]

    def _refuse(self, name: str, value: object, expected: str) -> NoReturn:
        raise ValueError(f"{self.prefix}{name} {_shown(value)}: expected {expected}")


@dataclass(frozen=True)
class _Llama:
    """Rule for models built as Llama is: what its class has for fields that are absent.

    Published files of models with images leave out whatever the language model's class has, so every default counts
    inside `text_config`. Elsewhere only kv_heads and head_dim do: a file that lacks another field is damaged.

    kv_heads  None: as many as attention heads, which is what a null means in any of them
    head_dim  None: hidden_size / num_attention_heads
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None

    def __call__(self, fields: _Fields) -> tuple[Layer, ...]:
        return llama_layers(
            **self.attention(fields),
            intermediate_size=self.number(fields, "intermediate_size", self.intermediate),
        )

    def number(self, fields: _Fields, name: str, absent: int) -> int:
        return fields.number(name, absent=absent if fields.prefix else None)

    def attention(self, fields: _Fields) -> dict[str, int]:
        """What the layers of attention follow from, by the names that `shapes.layers` has for it."""
        hidden = self.number(fields, "hidden_size", self.hidden)
        heads = self.number(fields, "num_attention_heads", self.heads)
        kv_heads = heads
        if not fields.is_null("num_key_value_heads"):
            kv_heads = fields.number("num_key_value_heads", absent=self.kv_heads or heads)
        if heads % kv_heads:
            raise ValueError(
                f"{fields.prefix}num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        return {
            "hidden_size": hidden,
            "num_hidden_layers": self.number(fields, "num_hidden_layers", self.layers),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": self._head_dim(fields, hidden, heads),
        }

    def _head_dim(self, fields: _Fields, hidden: int, heads: int) -> int:
        if "head_dim" in fields.values and not fields.is_null("head_dim"):
            return fields.number("head_dim")
        if self.head_dim is not None:
            return self.head_dim
        if hidden % heads:
            raise ValueError(
                f"{fields.prefix}hidden_size {hidden} is not a multiple of num_attention_heads {heads}, "
                "and there is no head_dim"
            )
        return hidden // heads


def _deepseek(fields: _Fields) -> tuple[Layer, ...]:
    return deepseek_layers(
        hidden_size=fields.number("hidden_size"),
        num_hidden_layers=fields.number("num_hidden_layers"),
        num_attention_heads=fields.number("num_attention_heads"),
        qk_nope_head_dim=fields.number("qk_nope_head_dim"),
        qk_rope_head_dim=fields.number("qk_rope_head_dim"),
        v_head_dim=fields.number("v_head_dim"),
        q_lora_rank=fields.number_or_null("q_lora_rank"),
        kv_lora_rank=fields.number("kv_lora_rank"),
        intermediate_size=fields.number("intermediate_size"),
        moe_intermediate_size=fields.number("moe_intermediate_size"),
        n_shared_experts=fields.number_or_null("n_shared_experts", least=0),
        n_routed_experts=fields.number_or_null("n_routed_experts", least=0),
        first_k_dense_replace=fields.number("first_k_dense_replace", least=0),
        # In the files of these models, but no field of the classes of `transformers`, which have experts in every
        # block from first_k_dense_replace on.
        moe_layer_freq=fields.number("moe_layer_freq", absent=1),
    )


GLM4_MOE = _Llama(4096, 10944, 46, 96, kv_heads=8)
LLAMA4 = _Llama(5120, 16384, 48, 40, kv_heads=8, head_dim=128)


def _glm4_moe(fields: _Fields) -> tuple[Layer, ...]:
    """Experts in every block from first_k_dense_replace on."""
    attention = GLM4_MOE.attention(fields)
    routed = fields.number("moe_intermediate_size")
    has_experts = fields.number_or_null("n_routed_experts", least=0)
    dense = fields.number("first_k_dense_replace", least=0)
    return llama_moe_layers(
        **attention,
        sparse=max(attention["num_hidden_layers"] - dense, 0) if has_experts else 0,
        intermediate_size=fields.number("intermediate_size"),
        moe_intermediate_size=routed,
        shared_intermediate_size=routed * (fields.number_or_null("n_shared_experts", least=0) or 0),
    )


def _llama4(fields: _Fields) -> tuple[Layer, ...]:
    """Experts in the blocks of `moe_layers`, else in every interleave_moe_layer_step-th; one expert is shared."""
    attention = LLAMA4.attention(fields)
    blocks = attention["num_hidden_layers"]
    step = fields.number("interleave_moe_layer_step", absent=1)
    listed = fields.length_or_null("moe_layers", most=blocks)
    routed = LLAMA4.number(fields, "intermediate_size", 8192)
    return llama_moe_layers(
        **attention,
        sparse=blocks // step if listed is None else listed,
        intermediate_size=LLAMA4.number(fields, "intermediate_size_mlp", LLAMA4.intermediate),
        moe_intermediate_size=routed,
        shared_intermediate_size=routed,
    )


RULES: Mapping[str, Callable[[_Fields], tuple[Layer, ...]]] = {
    "llama": _Llama(4096, 11008, 32, 32),
    "mistral": _Llama(4096, 14336, 32, 32, kv_heads=8),
    "qwen2": _Llama(4096, 22016, 32, 32, kv_heads=32),
    "qwen3": _Llama(4096, 22016, 32, 32, kv_heads=32, head_dim=128),
    "phi3": _Llama(3072, 8192, 32, 32),
    "gemma2": _Llama(2304, 9216, 26, 8, kv_heads=4, head_dim=256),
    "gemma3_text": _Llama(2304, 9216, 26, 8, kv_heads=4, head_dim=256),
    "granite": _Llama(4096, 11008, 32, 32),
    "cohere": _Llama(8192, 22528, 40, 64),
    "cohere2": _Llama(8192, 22528, 40, 64),
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "glm4_moe": _glm4_moe,
    "llama4_text": _llama4,
}
"""By `model_type`. Phi-3 stores qkv_proj and gate_up_proj as they are multiplied; the others' parts are joined."""

MULTIMODAL = ("gemma3", "llama4")
"""Types that have no layers outside their `text_config`; of any other type, a `text_config` is read if there is one."""


def _loads(data: bytes) -> dict[str, object]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nested too deeply
        raise ValueError(f"not a configuration: {one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise ValueError("not a configuration: expected a JSON object")
    return value


def _shown(value: object) -> str:
    """`value` as JSON has it, in one short line."""
    if isinstance(value, dict | list):
        return "{...}" if isinstance(value, dict) else "[...]"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
