"""Linear layers of published models, worked out from their configurations on the Hugging Face Hub.

A row is a weight as an inference engine multiplies by it: query, key and value projections in one, gate and up
projections in one. `split` is the dimension that tensor parallelism (TP) divides.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from w8a8_bench.comparison import LabelledShape
from w8a8_bench.problem import GemmShape


@dataclass(frozen=True)
class Layer:
    """A weight [k,n]: k input features, n output features. `split` None: every TP rank holds all of it."""

    name: str
    k: int
    n: int
    split: Literal["k", "n"] | None

    def sizes(self, tp: int) -> tuple[int, int]:
        """(k, n) of one rank's part."""
        return (self.k // tp if self.split == "k" else self.k, self.n // tp if self.split == "n" else self.n)


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The fields of a model's config.json that fix its layers, for models built as Llama is.

    `head_dim` stands in config.json in some models only; in the others it is hidden_size / num_attention_heads.
    """

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int


@dataclass(frozen=True, kw_only=True)
class DeepseekV2Config:
    """The same for DeepSeek-V2: latent attention without a low rank for queries, and a mixture of experts."""

    hidden_size: int
    num_attention_heads: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    kv_lora_rank: int
    intermediate_size: int
    moe_intermediate_size: int
    n_shared_experts: int


def llama_layers(config: LlamaConfig) -> tuple[Layer, ...]:
    hidden, inter = config.hidden_size, config.intermediate_size
    q = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    return (
        Layer("qkv_proj", hidden, q + 2 * kv, "n"),
        Layer("o_proj", q, hidden, "k"),
        Layer("gate_up_proj", hidden, 2 * inter, "n"),
        Layer("down_proj", inter, hidden, "k"),
    )


def deepseek_v2_layers(config: DeepseekV2Config) -> tuple[Layer, ...]:
    """Layers of DeepSeek-V2. Rows of experts are those of one expert; all shared experts are one weight.

    vLLM's benchmark has k=2048 for kv_b_proj, which contradicts the configuration (its input is the latent vector, of
    kv_lora_rank = 512), and splits kv_a_proj_with_mqa, which every rank needs whole.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    shared = config.n_shared_experts * config.moe_intermediate_size
    return (
        Layer("q_proj", hidden, heads * (config.qk_nope_head_dim + config.qk_rope_head_dim), "n"),
        Layer("kv_a_proj_with_mqa", hidden, config.kv_lora_rank + config.qk_rope_head_dim, None),
        Layer("kv_b_proj", config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim), "n"),
        Layer("o_proj", heads * config.v_head_dim, hidden, "k"),
        Layer("gate_up_proj", hidden, 2 * config.intermediate_size, "n"),
        Layer("down_proj", config.intermediate_size, hidden, "k"),
        Layer("shared_experts.gate_up_proj", hidden, 2 * shared, "n"),
        Layer("shared_experts.down_proj", shared, hidden, "k"),
        Layer("experts.gate_up_proj", hidden, 2 * config.moe_intermediate_size, "n"),
        Layer("experts.down_proj", config.moe_intermediate_size, hidden, "k"),
    )


def _llama(hidden: int, heads: int, kv_heads: int, head_dim: int, intermediate: int) -> tuple[Layer, ...]:
    return llama_layers(
        LlamaConfig(
            hidden_size=hidden,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=intermediate,
        )
    )


# Source of a row: https://huggingface.co/<model id>/blob/main/config.json
# (hidden_size, num_attention_heads, num_key_value_heads, head_dim, intermediate_size)
MODELS: dict[str, tuple[Layer, ...]] = {
    "mistralai/Mistral-7B-v0.1": _llama(4096, 32, 8, 128, 14336),
    "meta-llama/Llama-2-7b-hf": _llama(4096, 32, 32, 128, 11008),
    "meta-llama/Llama-2-13b-hf": _llama(5120, 40, 40, 128, 13824),
    "meta-llama/Llama-2-70b-hf": _llama(8192, 64, 8, 128, 28672),
    "meta-llama/Llama-3-8b": _llama(4096, 32, 8, 128, 14336),  # vLLM's name; the Hub's is meta-llama/Meta-Llama-3-8B
    "meta-llama/Llama-3.1-8B-Instruct": _llama(4096, 32, 8, 128, 14336),
    # vLLM's name; the Hub's is meta-llama/Llama-3.1-405B
    "meta-llama/Llama-3.1-405b-hf": _llama(16384, 128, 8, 128, 53248),
    "meta-llama/Llama-3.3-70B-Instruct": _llama(8192, 64, 8, 128, 28672),
    "mistralai/Mistral-Large-Instruct-2407": _llama(12288, 96, 8, 128, 28672),
    "Qwen/Qwen2.5-7B-Instruct": _llama(3584, 28, 4, 128, 18944),
    "Qwen/Qwen2.5-32B-Instruct": _llama(5120, 40, 8, 128, 27648),
    "Qwen/Qwen2.5-72B-Instruct": _llama(8192, 64, 8, 128, 29568),
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": deepseek_v2_layers(
        DeepseekV2Config(
            hidden_size=2048,
            num_attention_heads=16,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
            kv_lora_rank=512,
            intermediate_size=10944,
            moe_intermediate_size=1408,
            n_shared_experts=2,
        )
    ),
    "CohereLabs/c4ai-command-a-03-2025": _llama(12288, 96, 8, 128, 36864),
}


def model_shapes(
    models: Sequence[str], tp_sizes: Sequence[int], batch_sizes: Sequence[int]
) -> tuple[LabelledShape, ...]:
    """One shape for every model, TP size, batch size (m) and layer, in that order; the layer changes fastest.

    Raises ValueError for an unknown model, a size below 1, a TP size that does not divide a layer, and an empty list.
    """
    for name, values in (("model", models), ("TP size", tp_sizes), ("batch size", batch_sizes)):
        if not values:
            raise ValueError(f"no {name} was given: expected at least one")
    for model in models:
        if model not in MODELS:
            raise ValueError(_unknown(model))
    _check_at_least_1("TP size", tp_sizes)
    _check_at_least_1("batch size", batch_sizes)
    for model in models:
        for tp in tp_sizes:
            _check_divides(tp, model)
    return tuple(
        LabelledShape(GemmShape(m=m, k=k, n=n), {"model": model, "layer": layer.name, "tp": tp})
        for model in models
        for tp in tp_sizes
        for m in batch_sizes
        for layer in MODELS[model]
        for k, n in [layer.sizes(tp)]
    )


def _unknown(model: str) -> str:
    by_folded = {known.lower(): known for known in MODELS}
    near = [by_folded[folded] for folded in difflib.get_close_matches(model.lower(), by_folded, n=3)]
    if not near:
        # An id without its organization is too far from the whole for difflib, and the most common slip.
        near = [known for folded, known in by_folded.items() if model and model.lower() in folded][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(MODELS)}"
    return f"model {model!r} is unknown: {hint}"


def _check_at_least_1(what: str, sizes: Iterable[int]) -> None:
    for size in sizes:
        if size < 1:
            raise ValueError(f"{what} {size}: expected at least 1")


def _check_divides(tp: int, model: str) -> None:
    for layer in MODELS[model]:
        if layer.split is None:
            continue
        size = layer.k if layer.split == "k" else layer.n
        if size % tp:
            raise ValueError(
                f"TP {tp} does not divide {layer.split}={size} of {layer.name} in {model}: choose a TP size that does"
            )
