"""`recommend`: from results files and a model to the kernel and scheme to run it with. Needs no torch."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from w8a8_bench.cli import mix, output
from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.cli.results import Inputs
from w8a8_bench.cli.results import read as read_file
from w8a8_bench.problem import Activations
from w8a8_bench.providers import registry
from w8a8_bench.report.recommend import page
from w8a8_bench.report.recommend.choices import ModelLayer, Requirements, device_of
from w8a8_bench.report.recommend.recommend import Recommendation, recommend
from w8a8_bench.report.recommend.render import markdown, plain_text, to_json, verdict
from w8a8_bench.results import book
from w8a8_bench.results.json_lines import Results
from w8a8_bench.shapes import hf_config, models

SUFFIXES = {".md": "markdown", ".txt": "text", ".json": "json", ".html": "html", ".htm": "html"}
"""The format that the name of an output stands for, unless `--format` says another."""

FORMATS: dict[str, Callable[[Recommendation], str]] = {
    "markdown": markdown,
    "text": plain_text,
    "json": lambda what: json.dumps(to_json(what), indent=2, allow_nan=False),
    "html": page.render,
}

PROVIDERS = tuple(provider.name for provider in registry.PROVIDERS)

MOST_NAMED = 3
"""Files of a device that an error names."""


def run(args: argparse.Namespace) -> int:
    out = output.STDOUT if args.out is None else args.out
    try:
        recommendation = _recommend(args, out)
    except ValueError as error:
        raise UsageError(str(error)) from None
    format_ = args.format or SUFFIXES.get(Path(out).suffix.lower(), "markdown")
    output.put(out, f"{FORMATS[format_](recommendation).rstrip()}\n", verdict(recommendation))
    return EXIT_COMPLETE


def _recommend(args: argparse.Namespace, out: str) -> Recommendation:
    """Raises ValueError with one line for the first thing that is wrong with the arguments or the files."""
    layers = _layers(args.model, args.tp)
    required = _required(args)
    inputs = Inputs(args.results)
    read = inputs.paths
    if args.weights is not None:
        read.append(Path(args.weights))
    if args.model not in models.MODELS:
        read.append(Path(args.model, hf_config.FILE_NAME) if os.path.isdir(args.model) else Path(args.model))
    output.check(out, read)
    files = _named(args.results, inputs, layers) if args.results else [_of_the_book(args.model, args.tp)]
    _refuse_unknown(required.providers, files)
    cut_blocks = models.cut_blocks([args.model], [args.tp])
    return recommend(args.model, args.tp, layers, files, required, cut_blocks, PROVIDERS, from_book=not args.results)


def _named(names: Sequence[str], inputs: Inputs, layers: Sequence[ModelLayer]) -> list[Results]:
    files = inputs.read()
    if not any(file.comparisons for file in files):
        raise ValueError(f"{', '.join(names)}: no comparison is complete, so there is nothing to recommend from")
    files = _of_the_model(files, layers, inputs)
    if inputs.directories:
        _refuse_several_devices(files, inputs)
    return files


def _of_the_book(model: str, tp: int) -> Results:
    """The records of the model that come with this program. Raises ValueError if it has none, or none at this TP."""
    measure = (
        f"measure it with `w8a8-bench --dtype fp8 int8 model_bench --models {model} --tp-sizes {tp} --out FILE.jsonl`, "
        "then name FILE.jsonl here"
    )
    path = book.path_of(models.name_of(model))
    if path is None:
        known = ", ".join(book.models())
        has = f"those that come with w8a8-bench are of {known}" if known else "w8a8-bench comes without any"
        raise ValueError(f"no RESULTS were named, and there are no records of {model}: {has}; {measure}")
    file = read_file(path)
    sizes = sorted({size for end in file.ends if isinstance(size := end.labels.get("tp"), int)})
    if tp not in sizes:
        raise ValueError(
            f"no RESULTS were named, and the records of {model} that come with w8a8-bench are of TP "
            f"{', '.join(map(str, sizes))}, not {tp}; {measure}"
        )
    return file


def _refuse_unknown(providers: Sequence[str], files: Sequence[Results]) -> None:
    """Raise ValueError for a library that neither this project nor the records know."""
    known = sorted({*PROVIDERS, *(record.provider for file in files for record in file.records)})
    for name in providers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ValueError(f"provider {name!r} is unknown: {hint}")


def _of_the_model(files: Sequence[Results], layers: Sequence[ModelLayer], inputs: Inputs) -> list[Results]:
    """Without the files of a directory that have no shape of the model: what they were measured with doesn't matter."""
    shapes = {(layer.k, layer.n) for layer in layers}
    kept = [
        file
        for file in files
        if not inputs.is_found(file.path) or any((end.shape.k, end.shape.n) in shapes for end in file.ends)
    ]
    return kept or list(files)


def _refuse_several_devices(files: Sequence[Results], inputs: Inputs) -> None:
    by_device: dict[str, list[str]] = {}
    for file in files:
        for device in dict.fromkeys(str(device_of(header)) for header in file.headers):
            by_device.setdefault(device, []).append(str(file.path))
    if len(by_device) > 1:
        where = ", ".join(map(str, inputs.directories))
        found = "; ".join(f"{device} ({_some(names)})" for device, names in by_device.items())
        raise ValueError(f"{where} has results of {len(by_device)} devices: {found}; name the files of one of them")


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])


def _layers(model: str, tp: int) -> list[ModelLayer]:
    shapes = models.model_shapes([model], [tp], [1])
    return [
        ModelLayer(str(where.labels["layer"]), where.shape.k, where.shape.n, layer.count)
        for where, layer in zip(shapes, models.layers_of(model), strict=True)
    ]


def _required(args: argparse.Namespace) -> Requirements:
    if args.min_sqnr is not None and not math.isfinite(args.min_sqnr):
        raise ValueError(f"--min-sqnr {args.min_sqnr:g}: expected a number of dB")
    if args.sqnr_data is not None and args.min_sqnr is None:
        raise ValueError(f"--sqnr-data {args.sqnr_data} needs --min-sqnr DB, the limit for that data")
    if args.m and args.weights is not None:
        raise ValueError("--m and --weights exclude each other: leave one out")
    if args.any_accuracy and args.min_sqnr is not None:
        raise ValueError("--any-accuracy and --min-sqnr exclude each other: leave one out")
    return Requirements(
        Activations.parse(args.activations),
        args.min_sqnr,
        args.sqnr_data,
        args.any_accuracy,
        tuple(dict.fromkeys(args.providers or ())),
        mix.of_words(args.m) if args.m else mix.of_file(Path(args.weights)) if args.weights is not None else None,
    )
