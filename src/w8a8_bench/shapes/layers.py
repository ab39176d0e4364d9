"""Linear layers of a transformer, from the numbers of its configuration, and what tensor parallelism leaves of them.

A layer is a weight as an inference engine multiplies by it: query, key and value projections in one, gate and up
projections in one. The embedding and the head are left out: they usually stay in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class TpDoesNotDivide(ValueError):
    """A layer can't be handed out evenly to so many ranks."""


@dataclass(frozen=True)
class Share:
    """Features that tensor parallelism (TP) hands out in whole units: `units` of them, each `size` features.

    With `replicates`, TP of a multiple of the units gives each rank one, so that several ranks hold the same. `joined`
    weights of as many features each are multiplied as one, as gate and up projections are.
    """

    what: str
    units: int
    size: int
    replicates: bool = False
    joined: int = 1

    @property
    def features(self) -> int:
        return self.units * self.size

    def of_rank(self, tp: int) -> int:
        """Features that one rank holds. Raises TpDoesNotDivide if the units can't be shared evenly."""
        if self.units % tp == 0:
            return self.features // tp
        if not self.replicates:
            raise TpDoesNotDivide(f"TP {tp} does not divide the {self.units} {self.what}")
        if tp % self.units == 0:
            return self.size
        raise TpDoesNotDivide(f"TP {tp} neither divides nor is a multiple of the {self.units} {self.what}")


@dataclass(frozen=True)
class Layer:
    """A weight [k,n]: k input features, n output features.

    split   the dimension that TP divides, and `shares` how; None: every rank holds the whole layer
    count   how many GEMMs of this shape and of all m tokens one forward pass does: as a rule one a transformer block.
            None for routed experts: each sees the tokens that were routed to it and not all m, so that no count makes
            their times those of a forward pass
    """

    name: str
    k: int
    n: int
    split: Literal["k", "n"] | None = None
    shares: tuple[Share, ...] = ()
    count: int | None = None

    def sizes(self, tp: int) -> tuple[int, int]:
        """(k, n) of one rank's part. Raises TpDoesNotDivide if TP can't divide the layer."""
        if self.split is None:
            return self.k, self.n
        try:
            part = sum(share.of_rank(tp) for share in self.shares)
        except TpDoesNotDivide as error:
            raise TpDoesNotDivide(f"{error} of {self.name}") from None
        return (part, self.n) if self.split == "k" else (self.k, part)

    def cut(self, tp: int, block: int) -> str | None:
        """What one rank holds, if TP cuts through the blocks of `block` features that the whole weight has."""
        for share in self.shares:
            whole, part = share.features // share.joined, share.of_rank(tp) // share.joined
            if whole % block == 0 and part % block:
                joined = f"{share.joined} x " if share.joined > 1 else ""
                return f"{self.name} ({self.split}={joined}{part})"
        return None


def llama_layers(
    num_hidden_layers: int,
    hidden_size: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    intermediate_size: int,
) -> tuple[Layer, ...]:
    """The four layers of a block, the same in every block, of a model built as Llama is, by fields of its config.json.

    `head_dim` stands in config.json in some models only; in the others it is hidden_size / num_attention_heads.
    """
    return (
        *_attention(num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim),
        *_mlp("", hidden_size, intermediate_size, num_hidden_layers),
    )


def llama_moe_layers(
    num_hidden_layers: int,
    hidden_size: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    *,
    sparse: int,
    intermediate_size: int,
    moe_intermediate_size: int,
    shared_intermediate_size: int,
) -> tuple[Layer, ...]:
    """The same for attention as Llama's and a mixture of experts in `sparse` of the blocks, as GLM-4.5 and Llama 4.

    intermediate_size         of the dense MLP, which the other blocks have
    shared_intermediate_size  of all shared experts together; 0: none
    """
    return (
        *_attention(num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim),
        *_mlps(
            hidden_size,
            (intermediate_size, num_hidden_layers - sparse),
            (shared_intermediate_size, moe_intermediate_size, sparse),
        ),
    )


def deepseek_layers(
    *,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    qk_nope_head_dim: int,
    qk_rope_head_dim: int,
    v_head_dim: int,
    q_lora_rank: int | None,
    kv_lora_rank: int,
    intermediate_size: int,
    moe_intermediate_size: int,
    n_shared_experts: int | None,
    n_routed_experts: int | None,
    first_k_dense_replace: int,
    moe_layer_freq: int = 1,
) -> tuple[Layer, ...]:
    """The same for DeepSeek-V2 and V3: latent attention, and a mixture of experts in most blocks.

    q_lora_rank       None: queries are projected in one step
    n_routed_experts  None: every block has a dense MLP
    n_shared_experts  None or 0: none

    Layers of all blocks, dense MLPs and experts. Rows of experts are those of one; all shared ones are one. vLLM's
    benchmark has k=2048 for kv_b_proj of DeepSeek-Coder-V2-Lite, which contradicts the configuration (its input is the
    latent vector, of kv_lora_rank = 512), and splits kv_a_proj_with_mqa, which every rank needs whole.
    """
    hidden, count = hidden_size, num_hidden_layers
    # Experts are in the blocks from first_k_dense_replace on whose number moe_layer_freq divides.
    first = -(-first_k_dense_replace // moe_layer_freq) * moe_layer_freq
    sparse = len(range(first, count, moe_layer_freq)) if n_routed_experts else 0
    queries = Share("attention heads", num_attention_heads, qk_nope_head_dim + qk_rope_head_dim)
    values = Share("attention heads", num_attention_heads, v_head_dim)
    latent = Share("attention heads", num_attention_heads, qk_nope_head_dim + v_head_dim)
    if q_lora_rank is None:
        layers = [_column("q_proj", hidden, queries, count=count)]
    else:
        layers = [
            Layer("q_a_proj", hidden, q_lora_rank, count=count),
            _column("q_b_proj", q_lora_rank, queries, count=count),
        ]
    layers += [
        Layer("kv_a_proj_with_mqa", hidden, kv_lora_rank + qk_rope_head_dim, count=count),
        _column("kv_b_proj", kv_lora_rank, latent, count=count),
        _row("o_proj", values, hidden, count=count),
    ]
    shared = (n_shared_experts or 0) * moe_intermediate_size
    return (*layers, *_mlps(hidden, (intermediate_size, count - sparse), (shared, moe_intermediate_size, sparse)))


def _attention(count: int, hidden: int, num_heads: int, num_kv_heads: int, head_dim: int) -> tuple[Layer, Layer]:
    heads = Share("attention heads", num_heads, head_dim)
    # A key and a value for each.
    kv_heads = Share("KV heads", num_kv_heads, 2 * head_dim, replicates=True, joined=2)
    return _column("qkv_proj", hidden, heads, kv_heads, count=count), _row("o_proj", heads, hidden, count=count)


def _mlps(hidden: int, dense: tuple[int, int], experts: tuple[int, int, int]) -> list[Layer]:
    """Dense MLPs (intermediate features, blocks), and experts (those of the shared ones, of a routed one, blocks)."""
    (intermediate, dense_blocks), (shared, routed, sparse_blocks) = dense, experts
    layers: list[Layer] = []
    if dense_blocks:
        layers += _mlp("", hidden, intermediate, dense_blocks)
    if sparse_blocks and shared:
        layers += _mlp("shared_experts.", hidden, shared, sparse_blocks)
    if sparse_blocks:
        layers += _mlp("experts.", hidden, routed, None)
    return layers


def _mlp(prefix: str, hidden: int, intermediate: int, count: int | None) -> tuple[Layer, Layer]:
    gate_up, down = (Share("intermediate features", intermediate, size, joined=size) for size in (2, 1))
    return (
        _column(f"{prefix}gate_up_proj", hidden, gate_up, count=count),
        _row(f"{prefix}down_proj", down, hidden, count=count),
    )


def _column(name: str, k: int, *shares: Share, count: int | None) -> Layer:
    """A layer whose output features TP divides."""
    return Layer(name, k, sum(share.features for share in shares), "n", shares, count)


def _row(name: str, share: Share, n: int, *, count: int | None) -> Layer:
    """A layer whose input features TP divides, so that the ranks' outputs are summed."""
    return Layer(name, share.features, n, "k", (share,), count)
