"""Linear layers of published models, worked out from their configurations on the Hugging Face Hub, and their shapes."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from w8a8_bench.problem import BLOCK, GemmShape
from w8a8_bench.problem.comparison import LabelledShape
from w8a8_bench.shapes import hf_config
from w8a8_bench.shapes.layers import Layer, TpDoesNotDivide, deepseek_layers, llama_layers, llama_moe_layers

# Source of a row: https://huggingface.co/<model id>/blob/main/config.json
# (num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim, intermediate_size)
MODELS: dict[str, tuple[Layer, ...]] = {
    "mistralai/Mistral-7B-v0.1": llama_layers(32, 4096, 32, 8, 128, 14336),
    "meta-llama/Llama-2-7b-hf": llama_layers(32, 4096, 32, 32, 128, 11008),
    "meta-llama/Llama-2-13b-hf": llama_layers(40, 5120, 40, 40, 128, 13824),
    "meta-llama/Llama-2-70b-hf": llama_layers(80, 8192, 64, 8, 128, 28672),
    # vLLM's name; the Hub's is meta-llama/Meta-Llama-3-8B
    "meta-llama/Llama-3-8b": llama_layers(32, 4096, 32, 8, 128, 14336),
    "meta-llama/Llama-3.1-8B-Instruct": llama_layers(32, 4096, 32, 8, 128, 14336),
    # vLLM's name; the Hub's is meta-llama/Llama-3.1-405B
    "meta-llama/Llama-3.1-405b-hf": llama_layers(126, 16384, 128, 8, 128, 53248),
    "meta-llama/Llama-3.3-70B-Instruct": llama_layers(80, 8192, 64, 8, 128, 28672),
    "mistralai/Mistral-Large-Instruct-2407": llama_layers(88, 12288, 96, 8, 128, 28672),
    "Qwen/Qwen2.5-7B-Instruct": llama_layers(28, 3584, 28, 4, 128, 18944),
    "Qwen/Qwen2.5-32B-Instruct": llama_layers(64, 5120, 40, 8, 128, 27648),
    "Qwen/Qwen2.5-72B-Instruct": llama_layers(80, 8192, 64, 8, 128, 29568),
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": deepseek_layers(
        hidden_size=2048,
        num_hidden_layers=27,
        num_attention_heads=16,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        q_lora_rank=None,
        kv_lora_rank=512,
        intermediate_size=10944,
        moe_intermediate_size=1408,
        n_shared_experts=2,
        n_routed_experts=64,
        first_k_dense_replace=1,
    ),
    "CohereLabs/c4ai-command-a-03-2025": llama_layers(64, 12288, 96, 8, 128, 36864),
    "Qwen/Qwen3-8B": llama_layers(36, 4096, 32, 8, 128, 12288),
    "Qwen/Qwen3-14B": llama_layers(40, 5120, 40, 8, 128, 17408),
    "Qwen/Qwen3-32B": llama_layers(64, 5120, 64, 8, 128, 25600),
    "mistralai/Mistral-Small-24B-Instruct-2501": llama_layers(40, 5120, 32, 8, 128, 32768),
    "microsoft/phi-4": llama_layers(40, 5120, 40, 10, 128, 17920),
    "google/gemma-3-12b-it": llama_layers(48, 3840, 16, 8, 256, 15360),
    "google/gemma-3-27b-it": llama_layers(62, 5376, 32, 16, 128, 21504),
    "deepseek-ai/DeepSeek-V3": deepseek_layers(
        hidden_size=7168,
        num_hidden_layers=61,
        num_attention_heads=128,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        intermediate_size=18432,
        moe_intermediate_size=2048,
        n_shared_experts=1,
        n_routed_experts=256,
        first_k_dense_replace=3,
    ),
    # first_k_dense_replace = 3: experts in the other 89 blocks
    "zai-org/GLM-4.5": llama_moe_layers(
        *(92, 5120, 96, 8, 128),
        sparse=89,
        intermediate_size=12288,
        moe_intermediate_size=1536,
        shared_intermediate_size=1536,
    ),
    # interleave_moe_layer_step = 1: experts in every block; intermediate_size is theirs
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": llama_moe_layers(
        *(48, 5120, 40, 8, 128),
        sparse=48,
        intermediate_size=16384,
        moe_intermediate_size=8192,
        shared_intermediate_size=8192,
    ),
    # interleave_moe_layer_step = 2: experts in every second block, in the others a dense MLP
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": llama_moe_layers(
        *(48, 5120, 40, 8, 128),
        sparse=24,
        intermediate_size=16384,
        moe_intermediate_size=8192,
        shared_intermediate_size=8192,
    ),
}


CONFIG_SUFFIX = ".json"

HUB_CACHE = re.compile(r"/models--((?:[^/]+?--)?[^/]+)/snapshots/[^/]+/(?:config\.json/)?$")
"""Where `huggingface_hub` keeps a model's files. The Hub allows no `--` in a name."""

NEAREST = 3
"""Names that an error suggests at most."""


def layers_of(model: str) -> tuple[Layer, ...]:
    """Layers of `model`: a name of `MODELS`, or the path of a config.json or of the directory that holds one.

    A path ends in .json or has a path separator in it. If it is a name of the table too, the name is meant: write `./`
    before the path. Raises ValueError, with the nearest names, if there is neither such a name nor such a path, and as
    `hf_config.read` does.
    """
    if model in MODELS:
        return MODELS[model]
    if not model.isprintable():
        raise ValueError(f"model {model!r}: expected printable characters")
    if (os.sep in model or model.endswith(CONFIG_SUFFIX)) and _exists(Path(model)):
        return hf_config.read(Path(model))
    raise ValueError(_unknown(model))


def name_of(model: str) -> str:
    """What records call `model`, as for `layers_of`: a configuration by its directory, or by its file if that has a
    name of its own. It is the same wherever the directory lies, so that runs of two machines can be compared.

    In the cache of the Hub's client, models--ORG--NAME/snapshots/REVISION, it is ORG/NAME.
    """
    if model in MODELS:
        return model
    path = Path(os.path.abspath(model))
    if found := HUB_CACHE.search(f"{path}{os.sep}"):
        return found[1].replace("--", "/")
    return (path.parent.name if path.name == hf_config.FILE_NAME else path.stem if path.suffix else path.name) or model


def model_shapes(
    models: Sequence[str], tp_sizes: Sequence[int], batch_sizes: Sequence[int]
) -> tuple[LabelledShape, ...]:
    """One shape for every model, TP size, batch size (m) and layer, in that order; the layer changes fastest.

    `models` as for `layers_of`. Labels: `model` (`name_of`, or as it was given if two have one name),
    `layer`, `tp`, and `count` if the layer has one.
    Raises ValueError for an unknown model, a size below 1, a TP size that does not divide a layer, a matrix with too
    many elements, and an empty list.
    """
    for name, values in (("model", models), ("TP size", tp_sizes), ("batch size", batch_sizes)):
        if not values:
            raise ValueError(f"no {name} was given: expected at least one")
    layers = {model: layers_of(model) for model in models}
    for what, sizes in (("TP size", tp_sizes), ("batch size", batch_sizes)):
        if min(sizes) < 1:
            raise ValueError(f"{what} {next(size for size in sizes if size < 1)}: expected at least 1")
    names = {model: name_of(model) for model in models}
    shared = Counter(names.values())
    names = {model: model if shared[name] > 1 else name for model, name in names.items()}
    return tuple(
        _labelled(model, names[model], layer, tp, m)
        for model in models
        for tp in tp_sizes
        for m in batch_sizes
        for layer in layers[model]
    )


def cut_blocks(models: Sequence[str], tp_sizes: Sequence[int]) -> tuple[str, ...]:
    """A line for each TP size that cuts through the 128 x 128 blocks of weights, which blockwise scales are for."""
    lines = []
    for tp in tp_sizes:
        layers = [layer for model in models for layer in layers_of(model)]
        if cut := dict.fromkeys(filter(None, (layer.cut(tp, BLOCK) for layer in layers))):
            lines.append(
                f"TP {tp} cuts the {BLOCK} x {BLOCK} blocks of {', '.join(cut)}: engines refuse such a checkpoint in "
                "blockwise FP8, or pad what a rank holds to whole blocks"
            )
    return tuple(lines)


def all_model_shapes(
    tp_sizes: Sequence[int], batch_sizes: Sequence[int]
) -> tuple[tuple[LabelledShape, ...], tuple[str, ...]]:
    """Shapes of every model of the table at every TP size that divides it, and a line for each that is left out.

    Raises ValueError as `model_shapes` does, and if TP divides no model.
    """
    shapes: list[LabelledShape] = []
    left_out: list[str] = []
    for model in MODELS:
        for tp in tp_sizes:
            try:
                shapes += model_shapes([model], [tp], batch_sizes)
            except TpDoesNotDivide as error:
                left_out.append(str(error))
    if not shapes:
        raise ValueError(left_out[0] if left_out else "no TP size was given: expected at least one")
    return tuple(shapes), tuple(left_out)


def _labelled(model: str, name: str, layer: Layer, tp: int, m: int) -> LabelledShape:
    try:
        k, n = layer.sizes(tp)
    except TpDoesNotDivide as error:
        raise TpDoesNotDivide(f"{error} in {model}: choose another TP size") from None
    labels: dict[str, str | int] = {"model": name, "layer": layer.name, "tp": tp}
    if layer.count is not None:
        labels["count"] = layer.count
    try:
        return LabelledShape(GemmShape(m=m, k=k, n=n), labels)
    except ValueError as error:
        raise ValueError(f"{model}, {layer.name}: {error}") from None


def _exists(path: Path) -> bool:
    """Whether something is there. If the system doesn't say, yes: its reason comes up when the path is read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _unknown(model: str) -> str:
    """What to say of a word that is no name of the table, nor a path of something that exists."""
    is_path = model.endswith(CONFIG_SUFFIX) or model.startswith((".", os.sep)) or model.count(os.sep) > 1
    what = f"there is no file or directory {model!r}" if is_path else f"model {model!r} is unknown"
    near = _nearest(model.removesuffix(hf_config.FILE_NAME).rstrip("/"))
    if near:
        return f"{what}: did you mean {' or '.join(near)}?"
    return f"{what}: expected a name of `list models`, or the path of a config.json"


def _nearest(model: str) -> list[str]:
    """Names of the table that contain `model` without its organization, then names that resemble it.

    Case, dots and dashes don't count. People leave out the organization: such a word is compared with names without it.
    """
    name = _letters(_short(model))
    containing = [known for known in MODELS if len(name) > 2 and name in _letters(known)]
    part = str if "/" in model else _short
    compared = {_letters(part(known)): known for known in MODELS}
    alike = [compared[letters] for letters in difflib.get_close_matches(_letters(part(model)), compared, n=NEAREST)]
    return list(dict.fromkeys([*containing, *alike]))[:NEAREST]


def _short(name: str) -> str:
    """A name without its organization."""
    return name.rpartition("/")[2]


def _letters(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())
