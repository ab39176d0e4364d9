"""Models that no table knows, from their configuration to their records."""

from __future__ import annotations

import json

from w8a8_bench.results import json_lines

KERNELS = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
TINY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def test_layers_of_a_configuration_are_measured_and_counted(cli_here, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(TINY))
    result = cli_here(
        *("--dtype", "int8", "--device", "cpu", "--kernels", *KERNELS, "model_bench", "--models", "tiny/config.json"),
        *("--tp-sizes", "1", "4", "--batch-sizes", "3", "--rigor", "quick", "--out", "r.jsonl", "--compare-table"),
    )
    assert result.returncode == 0, result.stderr
    assert "== Results torch.int8 tiny-TP4 ====" in result.stdout
    measured = [
        (r.labels["tp"], r.labels["layer"], r.labels["count"], r.problem.shape.k, r.problem.shape.n)
        for r in json_lines.read(tmp_path / "r.jsonl").records
        if r.kernel == KERNELS[0]
    ]
    assert measured == [
        (1, "qkv_proj", 3, 32, 128),
        (1, "o_proj", 3, 64, 32),
        (1, "gate_up_proj", 3, 32, 192),
        (1, "down_proj", 3, 96, 32),
        (4, "qkv_proj", 3, 32, 48),  # one query head, and a key and a value head that another rank has too
        (4, "o_proj", 3, 16, 32),
        (4, "gate_up_proj", 3, 32, 48),
        (4, "down_proj", 3, 24, 32),
    ]
