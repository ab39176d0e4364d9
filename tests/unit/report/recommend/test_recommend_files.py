"""`recommend` on files as they come: whole, compressed, torn, foreign, edited. One line, or a recommendation."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from copies import replace
from hypothesis import given
from hypothesis import strategies as st
from made_model import PAPER
from made_results import HEADER, end
from published_configs import LLAMA_8B

from w8a8_bench.cli import main, recommend
from w8a8_bench.cli.errors import UsageError
from w8a8_bench.results.json_lines import Writer

# Hidden 64, one head of 64 that is its own KV head: qkv_proj 64 x 192. The fixture's layers are renamed to fit it.
CONFIG = {
    **LLAMA_8B,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
SHAPES = {"qkv_proj": (64, 192), "o_proj": (64, 64), "gate_up_proj": (64, 64), "down_proj": (32, 64)}


def write(path: Path) -> None:
    """A whole sweep of the model at m = 16: the fixture's cells of one shape for every layer."""
    header = replace(HEADER, settings={"data": "normal", "duty": 0.5})
    with Writer(path, resume=False) as writer:
        writer.write_header(header)
        for index, (layer, (k, n)) in enumerate(SHAPES.items()):
            records = [
                replace(
                    one,
                    comparison=index,
                    labels={"model": "./config.json", "layer": layer, "tp": 1},
                    problem=replace(one.problem, k=k, n=n),
                )
                for one in PAPER[:3]
            ]
            writer.append(records, end(records))


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write(tmp_path / "r.jsonl")
    return tmp_path


PARSER = main._parser("w8a8-bench")


def run(*words: str, model: str = "./config.json") -> None:
    assert recommend.run(PARSER.parse_args(["recommend", *words, "--model", model])) == 0


def refusal(*words: str, **changes: str) -> str:
    with pytest.raises(UsageError) as caught:
        run(*words, **changes)
    (line,) = str(caught.value).splitlines()
    return line


def test_a_file_and_a_configuration_make_a_recommendation_of_either_format(files, capsys) -> None:
    run("r.jsonl")
    whole = capsys.readouterr().out.partition("## The whole model")[2]
    (row,) = [line for line in whole.splitlines() if line.startswith("| 16 |")]
    # Four layers, twice each: 80 us in 16 bits, 32 us row-wise.
    assert [text.strip() for text in row.strip("|").split("|")] == [
        *("16", "80.00 us", "32.00 us", "2.50x ±0.00%", "fp8 channel-w-token-a", "32.00 us", "2.50x ±0.00%"),
    ]
    run("r.jsonl", "--format", "json")
    data = json.loads(capsys.readouterr().out)
    assert data["whole_model"][0]["one_scheme"]["time_s"] == pytest.approx(32e-6)
    assert [(one["layer"], one["count"], one["m"]) for one in data["layers"]] == [(name, 2, 16) for name in SHAPES]


def test_a_compressed_file_is_read_too(files, capsys) -> None:
    (files / "r.jsonl.gz").write_bytes(gzip.compress((files / "r.jsonl").read_bytes()))
    run("r.jsonl.gz")
    assert capsys.readouterr().err == ""


def test_a_torn_file_is_read_as_far_as_it_is_whole_and_says_so(files, capsys) -> None:
    data = (files / "r.jsonl").read_bytes()
    (files / "torn.jsonl").write_bytes(data[:-10])
    assert refusal("torn.jsonl").startswith("no records of down_proj (k=32 n=64) of ./config.json at TP 1")
    assert capsys.readouterr().err.splitlines() == [
        "warning: torn.jsonl: the last line is torn and left out",
        "warning: torn.jsonl: 3 records of comparisons that were not finished left out",
    ]


def test_what_is_no_results_file_is_one_line_with_its_name(files) -> None:
    lines = (files / "r.jsonl").read_text().splitlines(keepends=True)
    for name, data, expected in (
        ("empty.jsonl", b"", "empty.jsonl is empty: nothing was recorded"),
        ("foreign.jsonl", b'{"a": 1}\n', "foreign.jsonl is no results file of w8a8-bench: its first line is no run"),
        ("x.pkl", b"\x80\x04K\x01.", "x.pkl is no results file of w8a8-bench: a pickle is never loaded"),
        (
            "newer.jsonl",
            lines[0].replace('"schema": 3', '"schema": 9').encode(),
            "newer.jsonl, line 1: schema 9 is newer than this version reads (3): upgrade w8a8-bench",
        ),
        ("edited.jsonl", "".join(lines).replace('"ok"', '"fine"').encode(), "edited.jsonl, line 2: status 'fine'"),
    ):
        (files / name).write_bytes(data)
        assert refusal(name).startswith(expected), name
    assert refusal("gone.jsonl") == "gone.jsonl can't be read: No such file or directory"


def test_bad_options_are_one_line(files) -> None:
    assert refusal("r.jsonl", model="nobody/nothing").startswith("model 'nobody/nothing' is unknown: ")
    assert refusal("r.jsonl", model="gone.json").startswith("there is no file or directory 'gone.json': ")
    assert refusal("r.jsonl", "--tp", "0") == "TP size 0: expected at least 1"
    assert refusal("r.jsonl", "--tp", "3").startswith("TP 3 does not divide the 1 attention heads of qkv_proj")
    assert refusal("r.jsonl", "--activations", "lazy").startswith("activations 'lazy': expected one of prequantized")
    assert refusal("r.jsonl", "--min-sqnr", "nan") == "--min-sqnr nan: expected a number of dB"
    assert refusal("r.jsonl", "--sqnr-data", "normal").startswith("--sqnr-data normal needs --min-sqnr")
    assert refusal("r.jsonl", "--providers", "vlm") == "provider 'vlm' is unknown: did you mean vllm?"
    assert refusal("r.jsonl", "--providers", "vllm,sglang").startswith("no kernel of vllm, sglang to choose: ")
    assert refusal("r.jsonl", "--m", "16:x") == "--m: 16:x: expected a whole number m and its weight, as 16:0.7"
    assert refusal("r.jsonl", "--m", "16", "--weights", "w.csv").startswith("--m and --weights exclude each other")
    assert refusal("r.jsonl", "--m", "32") == (
        "no time of the whole model at m=32, which the mix of m has: the records have all layers at m=16"
    )
    assert refusal("r.jsonl", "--any-accuracy", "--min-sqnr", "1").startswith("--any-accuracy and --min-sqnr exclude")


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("a.md", "# ./config.json, TP 1, on "),
        ("a.txt", "./config.json, TP 1, on "),
        ("a.json", "{"),
        ("a", "# "),
        ("a.html", "<!doctype html>"),
    ],
)
def test_the_answer_is_written_in_the_format_that_the_name_says(files, capsys, name, begins) -> None:
    run("r.jsonl", "-o", name)
    said = capsys.readouterr()
    assert (files / name).read_text().startswith(begins)
    assert said.out.startswith(f"{name}: One scheme for all layers and every m: fp8 channel-w-token-a, 2.50x")
    assert (len(said.out.splitlines()), said.err) == (1, "")


def test_a_format_that_is_asked_for_counts_more_than_the_name(files) -> None:
    run("r.jsonl", "-o", "a.md", "--format", "json")
    assert json.loads((files / "a.md").read_text())["model"] == "./config.json"
    run("r.jsonl", "--out", "a.json", "--format", "markdown")
    assert (files / "a.json").read_text().startswith("# ./config.json")


def test_the_written_answer_is_what_is_printed_without_a_name(files, capsys) -> None:
    run("r.jsonl", "-o", "a.md")
    capsys.readouterr()
    for words in ((), ("-o", "-")):
        run("r.jsonl", *words)
        assert capsys.readouterr().out == (files / "a.md").read_text()


def test_no_answer_is_written_over_results_or_the_configuration(files) -> None:
    (files / "results.txt").symlink_to(files / "r.jsonl")
    (files / "mine").mkdir()
    (files / "mine/config.json").write_text(json.dumps(CONFIG))
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    is_read = "is one of the files that are read: choose another name"
    for name, changes, says in (
        ("other.jsonl", {}, "--out other.jsonl: names that end in .jsonl are for measured results; choose another"),
        ("r.jsonl.gz", {}, "--out r.jsonl.gz: names that end in .jsonl.gz are for measured results"),
        ("results.txt", {}, f"--out results.txt {is_read}"),
        ("config.json", {}, f"--out config.json {is_read}"),
        ("mine/config.json", {"model": "./mine"}, f"--out mine/config.json {is_read}"),
        ("", {}, "--out '': expected the name of a file to write"),
        (".", {}, "--out '.': expected the name of a file to write, not a directory"),
        ("nowhere/a.md", {}, "--out nowhere/a.md can't be written: there is no directory nowhere; create it first"),
        ("/proc/a.md", {}, "--out /proc/a.md can't be written: "),
    ):
        assert refusal("r.jsonl", "-o", name, **changes).startswith(says), name
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_a_directory_stands_for_the_results_in_it(files, capsys) -> None:
    (files / "table.jsonl").write_text('{"kernel": "x"}\n')
    run(".", "--format", "json")
    said = capsys.readouterr()
    assert json.loads(said.out)["files"] == ["r.jsonl"]
    assert said.err == "warning: left out, not results of a sweep: table.jsonl in .\n"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_directory_of_several_devices_is_refused_with_their_names(files) -> None:
    for name in ("b", "c", "d", "e"):
        write(files / f"{name}.jsonl")
        edit(files / f"{name}.jsonl", '"device": {', '"device": {"name": "NVIDIA H100", ')
    edit(files / "r.jsonl", '"device": {', '"device": {"name": "NVIDIA H200", ')
    assert refusal(".") == (
        ". has results of 2 devices: NVIDIA H100 (b.jsonl, c.jsonl, d.jsonl, 1 more); NVIDIA H200 (r.jsonl); "
        "name the files of one of them"
    )


def test_files_of_a_directory_without_a_layer_of_the_model_do_not_count(files, capsys) -> None:
    write(files / "other.jsonl")
    edit(files / "other.jsonl", '"duty": 0.5', '"duty": 1.0')
    assert refusal(".").startswith("other.jsonl has duty 1.0 and r.jsonl has duty 0.5")
    for k in {k for k, _ in SHAPES.values()}:
        edit(files / "other.jsonl", f'"k": {k}', f'"k": {16 * k}')
    run(".")
    assert "from r.jsonl." in capsys.readouterr().out
    assert refusal("other.jsonl", "r.jsonl").startswith("other.jsonl has duty 1.0"), "named, so it counts"


def test_runs_put_into_one_file_are_told_apart(files, capsys) -> None:
    """Their comparisons have the same numbers, but were not taken together."""
    first = (files / "r.jsonl").read_text()
    half = [json.loads(line) for line in first.splitlines()]
    for line in half:
        if line["kind"] == "cell":
            line["samples"] = {"time_host": [sample / 2 for sample in line["samples"]["time_host"]]}
    (files / "both.jsonl").write_text("".join(json.dumps(line) + "\n" for line in half) + first)
    run("both.jsonl", "--format", "json")
    data = json.loads(capsys.readouterr().out)
    assert data["whole_model"][0]["baseline"]["time_s"] == pytest.approx(40e-6)
    assert [note.partition(";")[0] for note in data["notes"]] == ["measured more than once: 8 cells"]


def test_the_same_file_twice_is_read_once(files, capsys) -> None:
    run("r.jsonl", "r.jsonl")
    assert "measured more than once" not in capsys.readouterr().out


def one_line_or_a_recommendation(data: bytes) -> None:
    Path("fuzzed.jsonl").write_bytes(data)
    try:
        run("fuzzed.jsonl")
    except UsageError as error:
        message = str(error)
    else:
        return
    assert len(message.splitlines()) == 1


@given(st.integers(0, 10**6), st.integers(0, 8), st.binary(max_size=4))
def test_a_file_with_other_bytes_is_one_line_or_a_recommendation(files, start, length, new) -> None:
    data = (files / "r.jsonl").read_bytes()
    start %= len(data)
    one_line_or_a_recommendation(data[:start] + new + data[start + length :])


VALUES = st.sampled_from(
    [None, True, -1, 0, 1, 10**400, 1e308, 5e-324, "", "fp8", "x\n|", [], [1e-6] * 12, {}, {"time_host": [1e-6] * 12}]
)


@given(st.data())
def test_a_file_with_other_values_is_one_line_or_a_recommendation(files, data) -> None:
    lines = [json.loads(line) for line in (files / "r.jsonl").read_text().splitlines()]
    line = data.draw(st.sampled_from(lines))
    where = data.draw(st.sampled_from([line, *(value for value in line.values() if value and isinstance(value, dict))]))
    where[data.draw(st.sampled_from(sorted(where)))] = data.draw(VALUES)
    one_line_or_a_recommendation("".join(json.dumps(line) + "\n" for line in lines).encode())


def test_a_mix_of_m_may_come_from_a_file(files, capsys) -> None:
    (files / "w.csv").write_text("m,weight\n16,2\n")
    run("r.jsonl", "--weights", "w.csv", "--format", "json")
    assert json.loads(capsys.readouterr().out)["mix_of_m"] == [{"m": 16, "weight": 2.0}]
    assert refusal("r.jsonl", "--weights", "w.csv", "-o", "w.csv").startswith("--out w.csv is one of the files")
