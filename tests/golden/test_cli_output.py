"""Full standard output of the command line, times masked, against the files beside this one.

After a change that is meant, write them anew with `UPDATE_GOLDEN=1 python -m pytest tests/golden`, and read the diff.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Cli

from w8a8_bench.report import table

HERE = Path(__file__).parent
CPU = ("--device", "cpu", "--rigor", "quick")
SQUARE = ("square_bench", "--dim-start", "16", "--dim-end", "32", "--dim-increment", "16")
ONE_INT8 = ("--kernels", "pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
ONE_FP8 = ("--kernels", "pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_fp8_fp8_bf16_scaled_mm")

RUNS = {
    "help": ("--help",),
    "help_square_bench": ("square_bench", "--help"),
    "help_range_bench": ("range_bench", "--help"),
    "help_model_bench": ("model_bench", "--help"),
    "help_csv_bench": ("csv_bench", "--help"),
    "help_quick_bench": ("quick_bench", "--help"),
    "help_recommend": ("recommend", "--help"),
    "help_compare": ("compare", "--help"),
    "help_merge": ("merge", "--help"),
    "help_list": ("list", "--help"),
    "help_doctor": ("doctor", "--help"),
    "help_cache": ("cache", "--help"),
    "list_kernels": ("list", "kernels"),
    "list_providers": ("list", "providers"),
    "list_models": ("list", "models"),
    "list_schemes": ("list", "schemes"),
    "square_bench_int8": ("--dtype", "int8", *CPU, *SQUARE),
    "square_bench_fp8": ("--dtype", "fp8", *CPU, *SQUARE),
    "square_bench_both": (*CPU, "--dtype=int8,fp8", *SQUARE, *ONE_INT8, "pytorch_fp8_fp8_bf16_scaled_mm"),
    "range_bench": (
        *("--dtype", "fp8", *CPU, "range_bench", "--dim-start", "16", "--dim-end", "48"),
        *("--dim_increment", "16", "--n-constant", "64", "--k_constant", "32", *ONE_FP8),
    ),
    "model_bench": (
        *("--dtype", "int8", *CPU, *ONE_INT8, "model_bench", "--models"),
        *("deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct", "--tp-sizes", "2", "--batch-sizes", "1"),
    ),
    "csv_bench": ("csv_bench", "--csv", str(HERE / "shapes.csv"), "--dtype", "int8", *CPU, *ONE_INT8),
    "providers": (
        *("--dtype", "int8", *CPU, *SQUARE, *ONE_INT8, "cutlass_i8_i8_bf16_scaled_mm"),
        *("--providers", "pytorch,cutlass", "triton"),
    ),
    "schemes": (
        *("--dtype", "int8", *CPU, *SQUARE, "--kernels", "pytorch_i8_i8_bf16_scaled_mm"),
        *("pytorch_i8_i8_bf16_scaled_mm_azp", "--schemes", "tensor-w-tensor-a", "channel-w-token-a"),
    ),
    "activations": (
        *("--dtype", "fp8", *CPU, *SQUARE, "--activations", "prequantized", "dynamic"),
        *ONE_FP8,
    ),
    "grid": (
        *("--dtype", "int8", "fp8", *CPU, *SQUARE, "--schemes", "all", "--activations", "dynamic", "static"),
        *("--kernels", "pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm"),
        *("pytorch_i8_i8_bf16_scaled_mm_azp_pt", "pytorch_fp8_fp8_bf16_scaled_mm"),
        *("pytorch_fp8_fp8_bf16_scaled_mm_blockwise", "cutlass_i8_i8_bf16_scaled_mm_azp"),
    ),
}

ERRORS = {
    "doctor_timing_on_a_cpu": ("doctor", "--timing", "--device", "cpu"),
    "doctor_out_without_timing": ("doctor", "--out", "x.jsonl"),
    "no_command": (),
    "no_dtype": SQUARE,
    "unknown_command": ("--dtype", "int8", "cube_bench"),
    "unknown_flag": ("--dtype", "int8", *SQUARE, "--kernel-names", "x"),
    "misspelt_required_flag": ("--dtype", "int8", "square_bench", "--dim-strat", "16", *SQUARE[3:]),
    "misspelt_flag": ("--dtype", "int8", *SQUARE, "--dim-strat", "16"),
    "unknown_kernel": ("--dtype", "int8", *SQUARE, "--kernels", "pytorch_i8_i8_bf16_scaled_m"),
    "kernel_of_another_dtype": ("--dtype", "int8", *SQUARE, "--kernels", "pytorch_fp8_fp8_bf16_scaled_mm"),
    "unknown_provider": ("--dtype", "int8", *SQUARE, "--providers", "cutlass,pytorhc"),
    "no_provider": ("--dtype", "int8", *SQUARE, "--providers", ","),
    "empty_value_in_a_list": ("--dtype", "int8,,fp8", *SQUARE),
    "unknown_kernel_in_a_list": ("--dtype", "int8", *SQUARE, "--kernels", "pytorch_i8_i8_bf16_scaled_mm,x"),
    "tp_size_no_number": ("--dtype", "int8", "model_bench", "--tp-sizes", "1,two"),
    "provider_of_another_dtype": ("--dtype", "int8", *SQUARE, "--providers", "deepgemm"),
    "kernel_of_another_provider": ("--dtype", "int8", *SQUARE, *ONE_INT8, "--providers", "cutlass"),
    "unknown_model": ("--dtype", "int8", "model_bench", "--models", "meta-llama/Llama-2-7b"),
    "models_path_missing": ("--dtype", "int8", "model_bench", "--models", "nowhere/config.json"),
    "tp_divides_no_model": ("--dtype", "int8", "model_bench", "--tp-sizes", "3"),
    "batch_sizes_no_number": ("--dtype", "int8", "model_bench", "--batch-sizes", "16", "clifs"),
    "unknown_dtype": ("--dtype", "int4", *SQUARE),
    "unknown_scheme": ("--dtype", "int8", *SQUARE, "--schemes", "row-w-row-a"),
    "unknown_activations": ("--dtype", "int8", *SQUARE, "--activations", "lazy"),
    "unknown_data": ("--dtype", "int8", *SQUARE, "--data", "gaussian"),
    "unknown_device": ("--dtype", "int8", *SQUARE, "--device", "tpu"),
    "device_of_many_digits": ("--dtype", "int8", *SQUARE, "--device", "cuda:99999"),
    "csv_is_empty": ("--dtype", "int8", "csv_bench", "--csv", ""),
    "start_after_end": (
        "--dtype",
        "int8",
        "square_bench",
        "--dim-start",
        "9",
        "--dim-end",
        "8",
        "--dim-increment",
        "1",
    ),
    "increment_zero": ("--dtype", "int8", "range_bench", "--dim-start", "8", "--dim-end", "9", "--dim-increment", "0"),
    "increment_negative": (
        "--dtype",
        "fp8",
        "square_bench",
        "--dim-start",
        "8",
        "--dim-end",
        "9",
        "--dim-increment",
        "-1",
    ),
    "size_zero": ("--dtype", "int8", "square_bench", "--dim-start", "0", "--dim-end", "8", "--dim-increment", "4"),
    "size_negative": ("--dtype", "int8", "model_bench", "--batch-sizes", "-16"),
    "size_over_2_31": (
        "--dtype",
        "fp8",
        "square_bench",
        "--dim-start",
        "65536",
        "--dim-end",
        "65536",
        "--dim-increment",
        "1",
    ),
    "size_no_number": (
        "--dtype",
        "fp8",
        "square_bench",
        "--dim-start",
        "1k",
        "--dim-end",
        "65536",
        "--dim-increment",
        "1",
    ),
    "tp_does_not_divide": ("--dtype", "int8", "model_bench", "--models", "meta-llama/Llama-2-7b-hf", "--tp-sizes", "3"),
    "out_in_no_directory": ("--dtype", "int8", *CPU, *SQUARE, "--out", "nowhere/results.jsonl"),
    "out_is_no_jsonl": ("--dtype", "int8", *CPU, *SQUARE, "--out", "results.json"),
    "out_is_a_directory": ("--dtype", "int8", *CPU, *SQUARE, "--out", "."),
    "out_is_empty": ("--dtype", "int8", *CPU, *SQUARE, "--out", ""),
    "budget_nan": ("--dtype", "int8", *SQUARE, "--budget", "nan"),
    "option_without_value": ("--dtype", "int8", "--data", *SQUARE),
    "word_that_is_no_command": ("foo",),
    "resume_without_out": ("--dtype", "int8", *CPU, *SQUARE, "--resume"),
    "csv_missing": ("--dtype", "int8", "csv_bench", "--csv", "nowhere.csv"),
    "timer_graph_on_cpu": ("--dtype", "int8", *CPU, *SQUARE, "--timer", "graph"),
    "timer_event_on_cpu": ("--dtype", "int8", *CPU, *SQUARE, "--timer", "event"),
    "measure_hot_on_cpu": ("--dtype", "int8", *CPU, *SQUARE, "--measure", "hot"),
    "measure_kernel_on_cpu": ("--dtype", "int8", *CPU, *SQUARE, "--measure", "kernel"),
    "measure_nonsense": ("--dtype", "int8", *CPU, *SQUARE, "--measure", "nonsense"),
    "processes_zero": ("--dtype", "int8", *SQUARE, "--processes", "0"),
    "processes_no_number": ("--dtype", "int8", *SQUARE, "--processes", "two"),
    "duty_zero": ("--dtype", "int8", *SQUARE, "--duty", "0"),
    "duty_over_one": ("--dtype", "int8", *SQUARE, "--duty", "1.5"),
    "duty_nan": ("--dtype", "int8", *SQUARE, "--duty", "nan"),
    "budget_negative": ("--dtype", "int8", *SQUARE, "--budget", "-1"),
    "shard_beyond_the_last": ("--dtype", "int8", *SQUARE, "--shard", "3/2"),
    "shard_no_number": ("--dtype", "int8", *SQUARE, "--shard", "first"),
    "shard_of_more_than_shapes": ("--dtype", "int8", *SQUARE, "--shard", "1/3"),
    "merge_no_out": ("merge", "nowhere.jsonl"),
    "merge_no_file": ("merge", "nowhere.jsonl", "-o", "all.jsonl"),
    "merge_out_is_no_jsonl": ("merge", "nowhere.jsonl", "-o", "all.jsonl.gz"),
    "merge_out_in_no_directory": ("merge", "nowhere.jsonl", "-o", "nowhere/all.jsonl"),
    "merge_out_is_a_directory": ("merge", "nowhere.jsonl", "-o", "."),
    "recommend_no_file": ("recommend", "nowhere.jsonl", "--model", "meta-llama/Llama-2-7b-hf"),
    "recommend_no_model": ("recommend", "nowhere.jsonl"),
    "recommend_unknown_model": ("recommend", "nowhere.jsonl", "--model", "meta-llama/Llama-2-7b"),
    "recommend_sqnr_nan": (
        *("recommend", "nowhere.jsonl", "--model", "meta-llama/Llama-2-7b-hf", "--min-sqnr", "nan"),
    ),
    "list_nothing": ("list",),
    "list_unknown": ("list", "kernel"),
}


def mask(text: str) -> str:
    """Replace what differs from run to run: times, what is computed from them, and what names the machine."""
    lines = []
    for line in text.splitlines():
        if re.search(r", torch \S+, .*data \w+, seed", line):
            line = "<device>, " + line[line.index("data ") :]
        if line.startswith("this machine is too busy"):
            continue
        line = re.sub(r"-\d{9,}\.(jsonl|pkl|html)", r"-<time>.\1", line)
        line = re.sub(r"^([a-z]+) +\S+ +(\d+)  (installed|no: .*)$", r"\1  <version>  \2  <state>", line)
        line = re.sub(r"itself [\d.]+x( \([\d.]+ to [\d.]+\))?, \d+ blocks$", "itself <noise>, <count> blocks", line)
        line = re.sub(r"^took [\d.]+ s: .*", lambda took: re.sub(r"-?\d+(\.\d+)?", "#", took[0]), line)
        line = re.sub(r"^(fastest|how sure): .*", r"\1: <what the times say>", line)
        line = re.sub(r"^next: .*?w8a8_bench ", "next: <command> ", line)
        line = re.sub(r"`[^`]*python\S* -m w8a8_bench ", "`<command> ", line)
        line = re.sub(r"Times are in \w+ \(\w+\)", "Times are in <unit>", line)
        if line.startswith("kernel ") and "vs bf16" in line:
            line = line.removesuffix("status")
        elif "|" in line or "±" in line or re.search(r"\b(ok|unsupported|skipped)\b| \d+(\.\d+)? [mun]s ", line):
            line = re.sub(r"  ok(, unsettled)?$", "", line.replace(", unsettled", ""))
            line = re.sub(r"(?<= )[+-]\d+(\.\d+)? [mun]?s( ±[\d.]+)?", "#", line)  # a difference of times
            line = line.replace("about ", "")
            line = re.sub(r"(?<![\w=\[-])±?\d+(\.\d+)?(e[-+]?\d+)?(%| ?(us|ms|ns|s|x)\b)?(?![\w)])", "#", line)
            line = line.replace(" - ", " # ")
            line = re.sub(r"(\s*#)+", " #", line)
        line = re.sub(r"-{5,}", "-----", line)
        lines.append(re.sub(r" {2,}", "  ", line).rstrip())
    return "\n".join(lines) + "\n"


@pytest.fixture
def printed(cli_here, monkeypatch) -> Cli:
    """Run the command line in this process, in an empty directory, with lines as long as they like.

    How lines are fitted to a terminal depends on how wide the times are, so it is tested on made-up records.
    """
    monkeypatch.setattr(table, "WIDTH", 1000)
    return cli_here


def assert_golden(name: str, text: str) -> None:
    path = HERE / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path.name} is missing: UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RUNS)
def test_standard_output_reads_as_recorded(printed, name):
    result = printed(*RUNS[name])
    assert result.returncode == 0, result.stderr
    assert_golden(name, mask(result.stdout))


def test_the_script_prints_the_tables_of_the_original_and_writes_no_report(cli, tmp_path):
    result = cli("--dtype", "int8", *CPU, *SQUARE, *ONE_INT8, door=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("[-----") == 3, "a table a shape, and one of all"
    assert "== All Results square_bench-torch.int8 ====" in result.stdout
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".pkl"]


def test_the_recommendation_of_committed_records_reads_as_recorded(printed, tmp_path):
    name = "llama2_7b_28_shapes_run3.jsonl.gz"
    shutil.copy(ROOT / "results/h200" / name, tmp_path)
    result = printed("recommend", name, "--model", "meta-llama/Llama-2-7b-hf")
    assert (result.returncode, result.stderr) == (0, "")
    assert_golden("recommend", result.stdout)  # nothing to mask: it is worked out from committed records


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(printed, tmp_path, name):
    result = printed(*ERRORS[name])
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert list(tmp_path.iterdir()) == []
    assert_golden(f"error_{name}", result.stderr)


@pytest.mark.parametrize("option", [("--timer", "sundial"), ("--rigor", "perfect")])
def test_an_unknown_choice_is_one_line_with_the_choices(cli_here, tmp_path, option):
    result = cli_here("--dtype", "int8", *SQUARE, *option)  # argparse words it, and not alike in every Python
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert option[1] in result.stderr
    assert {"--timer": "graph", "--rigor": "standard"}[option[0]] in result.stderr
    assert list(tmp_path.iterdir()) == []
