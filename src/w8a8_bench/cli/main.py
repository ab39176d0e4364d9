"""The parser of `w8a8-bench` and of the original's script, and the way from a command to its file.

Only what `--help` and `list` need is imported here: a command's own file is imported when that command runs.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import w8a8_bench
from w8a8_bench.cli import interrupt
from w8a8_bench.cli.errors import EXIT_BAD_INPUT, EXIT_COMPLETE, EXIT_FAULTS, EXIT_INTERRUPTED, EndOfOutput, UsageError
from w8a8_bench.problem import Activations
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import W8A8_FORMATS
from w8a8_bench.text import one_line, shown
from w8a8_bench.timing.measures import REQUESTS, Timer
from w8a8_bench.timing.settings import (
    CELL_BUDGET_S,
    CPU_BUDGET_S,
    DEFAULT_BUDGET_S,
    DEFAULT_DUTY,
    DEFAULT_RIGOR,
    DEFAULT_STEP_LIMIT_S,
    RIGORS,
)

DESCRIPTION = "Benchmark W8A8 GEMMs: INT8 and FP8 weights and activations, on NVIDIA GPUs and CPUs."

EXAMPLES = """\
square GEMMs:
  {prog} --dtype fp8 square_bench --dim-start 128 --dim-end 512 --dim-increment 64

constant n and k, m swept:
  {prog} --dtype fp8 range_bench --dim-start 128 --dim-end 512 --dim-increment 64 --n-constant 16384 --k-constant 16384

the layers of a model:
  {prog} --dtype fp8 model_bench --models meta-llama/Llama-2-7b-hf --batch-sizes 16 --tp-sizes 1

some kernels only:
  {prog} --dtype int8 --kernels pytorch_i8_i8_bf16_scaled_mm pytorch_i8_i8_bf16_scaled_mm_azp \\
      square_bench --dim-start 256 --dim-end 1024 --dim-increment 256

Options of a command may stand before or after its name; `{prog} COMMAND --help` lists them.
Spaces or commas separate several values: --dtype int8 fp8, --dtype int8,fp8, --dtype=int8,fp8.
Output: a table for each shape, then which kernel is fastest and what to type next. Records (JSON Lines), an HTML report
and the original's pickle are written in the working directory, or where --out says.
Exit codes: 0 complete; 1 compare found something slower or newly broken; 2 bad input, nothing run; 3 a kernel is
broken, or the sweep could not be finished (full disk, lost device); 130 interrupted.
"""

BATCH_SIZES = (1, 16, 32, 64, 128, 256, 512)
TP_SIZES = (1,)

DEFAULT_THRESHOLD_PERCENT = 1.0

FILES = "RESULTS"
"""What help calls results files that may be left out."""


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line; the usage text is what `--help` is for."""

    commands: Mapping[str, argparse.ArgumentParser]
    _unknown: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Note misspelt options first: of a required one, argparse would say only that it is missing."""
        self._unknown = [] if args is None else _unknown_flags(args, self)
        return super().parse_known_args(args, namespace)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Let commas separate the values of an option that takes several, and names, not files, after a command."""
        if action.option_strings and action.nargs == "+":
            arg_strings = _split_list(action.option_strings[-1], arg_strings)
        elif action.nargs == "*" and action.metavar != FILES:
            arg_strings = _split_list(str(action.metavar), arg_strings)
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required") and self._unknown:
            raise UsageError(_unrecognized(self._unknown, self))
        raise UsageError(" ".join(message.split()).removeprefix("argument "))

    def flag(self, name: str, text: str) -> None:
        self.add_argument(name, action="store_true", help=text)

    def value(self, name: str, metavar: str, text: str, **more: Any) -> None:
        self.add_argument(name, metavar=metavar, help=text, **more)

    def values(self, name: str, metavar: str, text: str, **more: Any) -> None:
        self.add_argument(name, nargs="+", metavar=metavar, help=text, **more)

    def choice(self, name: str, choices: Iterable[str], text: str, default: str | None = None) -> None:
        self.add_argument(name, choices=tuple(choices), default=default, help=text)


def _split_list(option: str, words: Sequence[str]) -> list[str]:
    """The values in `words`: commas separate them as spaces do. The path of a file or a directory is never split.

    Raises UsageError if a value is empty. A comma before a space is not a mistake: `int8, fp8`.
    """
    values: list[str] = []
    for place, word in enumerate(words, 1):
        if os.path.exists(word):
            values.append(word)
            continue
        list_ = word.removesuffix(",") if place < len(words) else word
        parts = [part.strip() for part in list_.split(",")]
        if "" in parts:
            raise UsageError(f"{option} {word!r}: a value is empty; separate values with one comma or a space")
        values += parts
    return values


def _number(text: str, kind: Callable[[str], float] = float, what: str = "a number") -> float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {what}, got {shown(text)}") from None


_whole_number = partial(_number, kind=int, what="a whole number")


def _parser(prog: str) -> _Parser:
    parser = _Parser(
        prog=prog,
        description=DESCRIPTION,
        epilog=EXAMPLES.format(prog=prog),
        formatter_class=_formatter,
    )
    parser.add_argument("--version", action="version", version=f"w8a8-bench {w8a8_bench.__version__}")
    parser.set_defaults(prog=prog, words=())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    parser.commands = commands.choices

    def add(name: str, text: str, module: str, parents: Sequence[_Parser] = ()) -> _Parser:
        command = commands.add_parser(name, help=text, description=text, parents=parents, formatter_class=_formatter)
        command.set_defaults(module=f"w8a8_bench.cli.{module}")
        return command

    shared = [_sweep_options()]
    square = add("square_bench", "square GEMMs: m = n = k, from start to end, the end included", "sweep", shared)
    _add_dims(square, end="last size")
    ranged = add(
        "range_bench",
        "m, n and k from start to end, the end excluded; any of them can be held constant",
        "sweep",
        shared,
    )
    _add_dims(ranged, end="all sizes are below this")
    for size in "mnk":
        ranged.value(f"--{size}-constant", size.upper(), f"hold {size} at this size", type=_whole_number)
    _add_models(add("model_bench", "the layers of models, at several batch sizes", "sweep", shared))
    table = add("csv_bench", "the shapes of a CSV file", "sweep", shared)
    table.value("--csv", "FILE", "a file with columns m, n and k; other columns become labels", required=True)
    add("quick_bench", "a first look at this machine: what `make bench` runs", "sweep", [_sweep_options("quick")])
    _add_compare(add("compare", "compare results files, cell by cell: what is slower, faster or the same", "compare"))
    _add_history(add("history", "every cell over many runs: where times changed, and what else did", "history"))
    _add_merge(add("merge", "join the files of all shards of a sweep (--shard) to one", "merge"))
    listing = add("list", "list the kernels, providers, models or schemes that options can name", "listing")
    listing.value("what", "kernels|providers|models|schemes", "what to list")
    _add_recommend(add("recommend", "which kernel and which scheme to run a model with", "recommend"))
    doctor = add("doctor", "what this machine can run, why not the rest, and how to add what is missing", "doctor")
    _add_device(doctor)
    doctor.flag("--timing", "test the timing itself on this GPU; takes about 2 minutes")
    doctor.value("--out", "FILE.jsonl", "with --timing: write the verdicts and the environment to this file")
    _add_seed(doctor, "the order of timing")
    kept = add("cache", "show or clear what was compiled or chosen before and is kept on disk", "cache")
    kept.value("what", "show|clear", "what to do")
    kept.value("parts", "PART", "clear: only these, as `cache show` names them (default: all)", nargs="*", default=())
    _add_report(add("report", "make a page to read from results: plots, tables, and what did not run", "report"))
    return parser


def _add_models(model: _Parser) -> None:
    model.values("--models", "NAME", "names from `list models` (default: all), or PATH/config.json of any model")
    model.values("--tp-sizes", "T", "tensor-parallel sizes (default: 1)", type=_whole_number, default=list(TP_SIZES))
    model.values(
        "--batch-sizes",
        "M",
        "numbers of tokens; cliffs: both sides of every size at which times tend to jump (default: "
        f"{' '.join(map(str, BATCH_SIZES))})",
        default=list(BATCH_SIZES),
    )


def _add_compare(compare: _Parser) -> None:
    compare.values(
        "base", "BASE.jsonl", "results before the change (.jsonl or .jsonl.gz); several runs of one plan are one base"
    )
    compare.value("new", "NEW.jsonl", "results after it")
    compare.value(
        "--threshold",
        "PERCENT",
        "smaller changes count as the same; a cell that is slower by more makes the exit code 1 "
        f"(default: {DEFAULT_THRESHOLD_PERCENT:g})",
        type=_number,
        default=DEFAULT_THRESHOLD_PERCENT,
    )
    compare.choice("--format", ("text", "markdown", "json", "junit"), "default: text", "text")
    compare.flag("--all", "list the cells that are the same too")
    compare.flag("--require-all", "exit code 1 also if a cell of BASE is missing from NEW")
    compare.flag("--force", "compare even if GPU, data, timer, seed or measures differ")


def _add_history(history: _Parser) -> None:
    history.values("results", "RESULTS", "results files of many runs, directories of them, or patterns in quotes")
    history.value(
        "--threshold",
        "PERCENT",
        "exit code 1 if a cell is slower than its best lasting level by more than this (default: "
        f"{DEFAULT_THRESHOLD_PERCENT:g})",
        type=_number,
        default=DEFAULT_THRESHOLD_PERCENT,
    )
    history.add_argument(
        "-o", "--out", metavar="FILE", help="write the answer to FILE, over an older one (default: stdout)"
    )
    history.choice(
        "--format",
        ("text", "markdown", "json", "junit", "html"),
        "default: what the name of --out ends in (.txt, .md, .json, .xml, .html), else text",
    )
    history.flag("--all", "show all rows of long tables")
    history.flag("--no-index", "read every file, and keep no index beside them")


def _add_merge(merge: _Parser) -> None:
    merge.values("results", "RESULTS", "files of the shards, gzipped or not, or their directory")
    merge.add_argument(
        "-o", "--out", metavar="FILE.jsonl", required=True, help="the file to write, which must not exist"
    )
    merge.flag("--partial", "join what there is, even if shards or shapes are missing; --resume measures them later")


def _add_recommend(parser: _Parser) -> None:
    parser.value(
        "results",
        FILES,
        "results files of one device, or their directory (default: the H200 records that come with w8a8-bench)",
        nargs="*",
        default=(),
    )
    parser.value("--model", "NAME", "a name from `list models`, or PATH/config.json of any model", required=True)
    parser.value("--tp", "T", "tensor-parallel size (default: 1)", type=_whole_number, default=1)
    parser.value(
        "--activations",
        "KIND",
        "prequantized (default), dynamic or static: only times of this kind are compared",
        default=Activations.PREQUANTIZED.value,
    )
    parser.values(
        "--providers", "NAME", "choose among kernels of these libraries, those that you can deploy (default: all)"
    )
    parser.values("--m", "M:WEIGHT", "how often a forward pass has M tokens (default: all M of the records alike)")
    parser.value("--weights", "FILE", "the same from a file: CSV with columns m and weight, or JSON")
    parser.value(
        "--min-sqnr",
        "DB",
        "recommend no scheme whose SQNR is lower than this on any data (default: one that loses more than 8 dB against "
        "fp8 channel-w-token-a on data with outliers)",
        type=_number,
    )
    parser.flag("--any-accuracy", "recommend by speed alone")
    parser.value("--sqnr-data", "DATA", "with --min-sqnr: look at the SQNR on this data only, for example normal")
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="write the answer to FILE, over an older one (default: stdout)"
    )
    parser.choice(
        "--format",
        ("markdown", "text", "json", "html"),
        "default: what the name of --out ends in (.md, .txt, .json, .html), else markdown",
    )


def _add_report(report: _Parser) -> None:
    report.values("results", "RESULTS", "results files, gzipped or not, or directories of them")
    report.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="write the report to FILE, over an older one (default: report.html; text goes to stdout)",
    )
    report.choice(
        "--format",
        ("html", "markdown", "csv", "table"),
        "default: what the name of --out ends in (.html, .md, .csv, .txt), else html",
    )
    report.flag("--pool-gpus", "treat GPUs of the same name as one (default: results of different GPUs are kept apart)")


def _sweep_options(rigor: str = DEFAULT_RIGOR) -> _Parser:
    """Options that every sweep takes, with the default of `--rigor`."""
    shared = _Parser(add_help=False)
    tokens = ", ".join(fmt.value for fmt in W8A8_FORMATS)
    shared.values("--dtype", "DTYPE", f"format of the operands: {tokens}, or both")
    shared.values("--kernels", "NAME", "exact names from `list kernels` (default: all)")
    shared.values("--providers", "NAME", "names from `list providers`: all kernels of these (default: all)")
    shared.values(
        "--schemes", "SCHEME", "names from `list schemes`, or all: every legal combination (default: the kernel's)"
    )
    shared.values(
        "--activations",
        "KIND",
        "prequantized (default); dynamic or static: quantization is timed too, beside the prequantized GEMM",
        default=[Activations.PREQUANTIZED.value],
    )
    _add_device(shared)
    shared.values("--devices", "NAME", "share the shapes out among several GPUs: all, or cuda:0 cuda:1 ...")
    shared.value(
        "--cluster",
        "ADDRESS",
        "share the shapes out among the GPUs of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT",
    )
    shared.value("--out", "FILE.jsonl", "write the records here, and the pickle beside them (default: named by time)")
    shared.flag("--resume", "continue the sweep whose records are in --out")
    shared.value("--shard", "I/N", "measure only the I-th of N shares of the shapes; `merge` joins their files")
    shared.add_argument(
        "--data",
        default=Distribution.NORMAL.value,
        help=f"values of the timed operands: {', '.join(d.value for d in Distribution)}",
    )
    _add_seed(shared, "the operands and the order of timing")
    shared.flag("--dry-run", "print the plan and about how long it takes, then stop")
    shared.flag("--no-report", "write no HTML report beside the records")
    shared.flag("--show-unsupported", "a row for every kernel that can't run here (default: a line)")
    shared.flag("--compare-table", "print the original's tables too, which may be very wide")
    shared.choice(
        "--timer",
        (timer.value for timer in Timer),
        "graph: replayed CUDA graphs (default on a GPU); event: CUDA events; host: the host's clock (on a CPU)",
    )
    shared.values(
        "--measure", "WHAT", f"times to take: {', '.join(REQUESTS)} (default: cold; with --timer host its own)"
    )
    shared.choice("--rigor", RIGORS, f"how precisely to measure (default: {rigor})", rigor)
    shared.value(
        "--processes", "P", "measure in P fresh processes (default: as many as --rigor says)", type=_whole_number
    )
    shared.value(
        "--duty",
        "SHARE",
        f"share of the time that a GPU works; 1 runs it into its power cap (default: {DEFAULT_DUTY:g})",
        type=_number,
        default=DEFAULT_DUTY,
    )
    shared.value(
        "--budget",
        "SECONDS",
        "time limit for one shape in one process; kernels left by then are skipped; 0: no limit (default: "
        f"{DEFAULT_BUDGET_S:g}, or {CELL_BUDGET_S:g} for each cell if that is more; on a CPU {CPU_BUDGET_S:g}, for "
        "which nothing is skipped)",
        type=_number,
    )
    shared.value(
        "--step-limit",
        "SECONDS",
        "stop a kernel that takes longer to compile, to launch or to sample; 0: no limit (default: "
        f"{DEFAULT_STEP_LIMIT_S:g})",
        type=_number,
        default=DEFAULT_STEP_LIMIT_S,
    )
    return shared


def _add_device(parser: _Parser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda or cuda:<index>"
    )


def _add_seed(parser: _Parser, what: str) -> None:
    parser.add_argument("--seed", type=_whole_number, default=0, help=f"seed for {what} (default: 0)")


def _add_dims(parser: _Parser, *, end: str) -> None:
    for name, text in (("start", "first size"), ("end", end), ("increment", "from one size to the next")):
        parser.value(f"--dim-{name}", name.upper(), text, type=_whole_number, required=True)


def _formatter(prog: str) -> argparse.HelpFormatter:
    # A fixed width: help reads the same in a terminal, a pipe and a test.
    return argparse.RawDescriptionHelpFormatter(prog, width=120, max_help_position=32)


def _arrange(argv: Sequence[str], parser: _Parser) -> list[str]:
    """Put the command first, whatever stood before it, and write flags with `-` for `_`.

    The original's users write `--kernels a b square_bench`, where argparse would take the command for a third kernel.
    """
    flags = [_dashed(word) for word in argv]
    commands = parser.commands
    actions = [action for command in commands.values() for action in command._actions]
    takes_one = {option for action in actions if action.nargs is None for option in action.option_strings}
    takes_many = {option for action in actions if action.nargs == "+" for option in action.option_strings}
    position = 0
    while position < len(flags):
        word = flags[position]
        if word in commands:
            return [word, *flags[:position], *flags[position + 1 :]]
        position += 1
        if _completes(word, takes_one):
            position += position < len(flags) and flags[position] not in commands
        elif _completes(word, takes_many):
            while position < len(flags) and flags[position] not in commands and not flags[position].startswith("-"):
                position += 1
    if asked := [flag for flag in flags if flag in ("-h", "--help", "--version")]:
        return asked  # of the program: without a command, other options are of none
    raise UsageError(_no_command(flags, list(commands), parser.prog))


def _no_command(words: Sequence[str], commands: list[str], prog: str) -> str:
    """What to say if no word is a command: the one that is nearly one, or what there is."""
    for word in words:
        near = difflib.get_close_matches(word, commands, n=1, cutoff=0.7)
        if near and not word.startswith("-"):
            return f"command {word!r} is unknown: did you mean {near[0]}?"
    if words and not words[0].startswith("-"):
        return f"command {words[0]!r} is unknown: expected one of {', '.join(commands)}"
    return f"no command given: expected one of {', '.join(commands)}; see {prog} --help"


def _unknown_flags(words: Sequence[str], command: argparse.ArgumentParser) -> list[str]:
    """The options among `words` that the command does not have; the beginning of one that it has will do."""
    options = [option for action in command._actions for option in action.option_strings]
    flags = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
    return [flag for flag in flags if not any(option.startswith(flag) for option in options)]


def _unrecognized(words: Sequence[str], command: argparse.ArgumentParser) -> str:
    """What to say of words that are no option of a command: the nearest options, or where to find them."""
    options = [option for action in command._actions for option in action.option_strings]
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    near = [match for flag in flags for match in difflib.get_close_matches(flag, options, n=1, cutoff=0.75)]
    remedy = f"did you mean {' and '.join(near)}?" if near else f"see {command.prog} --help"
    return f"unrecognized arguments: {one_line(' '.join(words))}: {remedy}"


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _completes(word: str, options: set[str]) -> bool:
    """Whether `word` is one of `options` or the beginning of one, and its value is still to come."""
    return len(word) > 2 and "=" not in word and any(option.startswith(word) for option in options)


def main(argv: Sequence[str] | None = None, *, prog: str = "w8a8-bench") -> int:
    """Run the command line and return the exit code."""
    _open_what_is_closed()
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(prog)
    try:
        interrupt.install()
        args, unknown = parser.parse_known_args(_arrange(words, parser))
        if unknown:
            raise UsageError(_unrecognized(unknown, parser.commands[args.command]))
        args.words = words
        with interrupt.nothing_to_keep(prog):
            run: Callable[[argparse.Namespace], int] = importlib.import_module(args.module).run
        code = run(args)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"{prog}: error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as error:
        where = one_line(str(error))
        print(f"{prog}: interrupted{f' {where}' if where else ''}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except EndOfOutput:
        _drop_output()
        return EXIT_FAULTS
    except BrokenPipeError:
        _drop_output()  # its reader is gone (`| head`), which is no fault
        return EXIT_COMPLETE
    except OSError as error:
        what = "standard output can't be written" if error.filename is None else one_line(str(error.filename))
        print(f"{prog}: error: {what}: {error.strerror}", file=sys.stderr)
        _drop_output()
        return EXIT_FAULTS
    except Exception:
        if not interrupt.was_interrupted():
            raise
        print(f"{prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def run_and_exit(*, prog: str = "w8a8-bench") -> NoReturn:
    """What a script calls: run the command line and end the process with the exit code."""
    code = main(prog=prog)
    if code == EXIT_INTERRUPTED:
        interrupt.leave()
    sys.exit(code)


class _Log(io.FileIO):
    """Standard error. If it can't be written (its reader left, its disk is full), only what it says is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _open_what_is_closed() -> None:
    """Give a standard stream that the caller closed (`2>&-`) a place to go, so that printing to it is no error.

    Nor is a character that its encoding lacks: a question mark stands for it.
    """
    errors = sys.__stderr__
    if errors is not None and errors is sys.stderr and errors.fileno() == 2:
        log = io.BufferedWriter(_Log(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(log, encoding=errors.encoding, line_buffering=True, write_through=True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "w"))


def _drop_output() -> None:
    """Let what is left in the buffer go nowhere, so that Python does not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
