"""The built-in models: the linear layers of each, from its published configuration.

The numbers of a `Config` are those of the model's `config.json` on the Hugging Face hub, under the name given here.
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
    """A weight [k,n] without tensor parallelism (TP), and the dimension that TP splits; None where TP replicates it."""

    name: str
    k: int
    n: int
    split: Literal["k", "n"] | None


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the layers of a Llama-like decoder follow from. `heads * head_dim` need not be `hidden`, but is here."""

    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    head_dim: int = 128


def decoder(config: Config) -> tuple[Layer, ...]:
    """Layers of a Llama-like decoder, with q, k and v fused, and gate and up fused, as inference engines do."""
    attention = config.heads * config.head_dim
    return (
        Layer("qkv_proj", config.hidden, attention + 2 * config.kv_heads * config.head_dim, "n"),
        Layer("o_proj", attention, config.hidden, "k"),
        Layer("gate_up_proj", config.hidden, 2 * config.intermediate, "n"),
        Layer("down_proj", config.intermediate, config.hidden, "k"),
    )


def deepseek_coder_v2_lite() -> tuple[Layer, ...]:
    """Multi-head latent attention, a dense first layer, then routed and shared experts.

    The projection to the latent is replicated under TP. The table of vLLM's benchmark splits it, and gives `kv_b_proj`
    k = 2048, where the configuration's rank (kv_lora_rank) is 512.
    """
    hidden, heads, nope, rope, v_dim, rank = 2048, 16, 128, 64, 128, 512
    dense, expert, shared_experts = 10944, 1408, 2
    return (
        Layer("q_proj", hidden, heads * (nope + rope), "n"),
        Layer("kv_a_proj_with_mqa", hidden, rank + rope, None),
        Layer("kv_b_proj", rank, heads * (nope + v_dim), "n"),
        Layer("o_proj", heads * v_dim, hidden, "k"),
        Layer("gate_up_proj", hidden, 2 * dense, "n"),
        Layer("down_proj", dense, hidden, "k"),
        Layer("shared_experts.gate_up_proj", hidden, 2 * shared_experts * expert, "n"),
        Layer("shared_experts.down_proj", shared_experts * expert, hidden, "k"),
        Layer("experts.gate_up_proj", hidden, 2 * expert, "n"),
        Layer("experts.down_proj", expert, hidden, "k"),
    )


LLAMA_3_8B = Config(hidden=4096, heads=32, kv_heads=8, intermediate=14336)
LLAMA_70B = Config(hidden=8192, heads=64, kv_heads=8, intermediate=28672)

MODELS: dict[str, tuple[Layer, ...]] = {
    "mistralai/Mistral-7B-v0.1": decoder(Config(hidden=4096, heads=32, kv_heads=8, intermediate=14336)),
    "meta-llama/Llama-2-7b-hf": decoder(Config(hidden=4096, heads=32, kv_heads=32, intermediate=11008)),
    "meta-llama/Llama-2-13b-hf": decoder(Config(hidden=5120, heads=40, kv_heads=40, intermediate=13824)),
    "meta-llama/Llama-2-70b-hf": decoder(LLAMA_70B),
    "meta-llama/Llama-3-8b": decoder(LLAMA_3_8B),
    "meta-llama/Llama-3.1-8B-Instruct": decoder(LLAMA_3_8B),
    "meta-llama/Llama-3.1-405b-hf": decoder(Config(hidden=16384, heads=128, kv_heads=8, intermediate=53248)),
    "meta-llama/Llama-3.3-70B-Instruct": decoder(LLAMA_70B),
    "mistralai/Mistral-Large-Instruct-2407": decoder(Config(hidden=12288, heads=96, kv_heads=8, intermediate=28672)),
    "Qwen/Qwen2.5-7B-Instruct": decoder(Config(hidden=3584, heads=28, kv_heads=4, intermediate=18944)),
    "Qwen/Qwen2.5-32B-Instruct": decoder(Config(hidden=5120, heads=40, kv_heads=8, intermediate=27648)),
    "Qwen/Qwen2.5-72B-Instruct": decoder(Config(hidden=8192, heads=64, kv_heads=8, intermediate=29568)),
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": deepseek_coder_v2_lite(),
    "CohereLabs/c4ai-command-a-03-2025": decoder(Config(hidden=12288, heads=96, kv_heads=8, intermediate=36864)),
}


def model_shapes(
    models: Iterable[str], tp_sizes: Sequence[int], batch_sizes: Sequence[int]
) -> tuple[LabelledShape, ...]:
    """Every layer of every model at every TP size and batch size (m), in the original's order: model, TP, m, layer.

    Raises ValueError for an unknown model, with the nearest names, a size below 1, and a TP size that does not divide.
    """
    for size in batch_sizes:
        if size < 1:
            raise ValueError(f"--batch-sizes {size}: expected at least 1")
    shapes = []
    for model in models:
        if model not in MODELS:
            near = difflib.get_close_matches(model, MODELS, n=3, cutoff=0.4)
            hint = f"the nearest are {', '.join(near)}" if near else "see `w8a8-bench list models`"
            raise ValueError(f"model {model!r} is unknown: {hint}")
        for tp in tp_sizes:
            layers = [(layer.name, *_split(model, layer, tp)) for layer in MODELS[model]]
            for m in batch_sizes:
                for name, k, n in layers:
                    labels: dict[str, str | int] = {"model": model, "layer": name, "tp": tp}
                    shapes.append(LabelledShape(GemmShape(m=m, n=n, k=k), labels))
    return tuple(shapes)


def _split(model: str, layer: Layer, tp: int) -> tuple[int, int]:
    """k and n of one of `tp` parts."""
    if tp < 1:
        raise ValueError(f"--tp-sizes {tp}: expected at least 1")
    if layer.split is None:
        return layer.k, layer.n
    size = layer.k if layer.split == "k" else layer.n
    if size % tp:
        raise ValueError(f"TP size {tp} does not divide {layer.split}={size} of {layer.name} in {model}")
    return (layer.k // tp, layer.n) if layer.split == "k" else (layer.k, layer.n // tp)
