"""`recommend`: from results files and a model to the kernel and scheme to run it with. Needs no torch."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.cli.results import read
from w8a8_bench.problem import Activations
from w8a8_bench.report.candidates import Limits, ModelLayer, Source
from w8a8_bench.report.recommend import Recommendation, recommend
from w8a8_bench.report.recommend_text import markdown, to_json
from w8a8_bench.shapes import models


def run(args: argparse.Namespace) -> int:
    try:
        recommendation = _recommend(args)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.format == "json":
        print(json.dumps(to_json(recommendation), indent=2, allow_nan=False))
    else:
        print(markdown(recommendation))
    return EXIT_COMPLETE


def _recommend(args: argparse.Namespace) -> Recommendation:
    """Raises ValueError with one line for whatever the arguments or the files are not."""
    layers = _layers(args.model, args.tp)
    limits = _limits(args)
    sources = [Source.of(path, read(Path(path))) for path in dict.fromkeys(args.results)]
    if not any(source.comparisons for source in sources):
        raise ValueError(f"{', '.join(args.results)}: no comparison is complete, so there is nothing to recommend by")
    return recommend(args.model, args.tp, layers, sources, limits)


def _layers(model: str, tp: int) -> list[ModelLayer]:
    shapes = models.model_shapes([model], [tp], [1])
    return [
        ModelLayer(str(where.labels["layer"]), where.shape.k, where.shape.n, layer.count)
        for where, layer in zip(shapes, models.layers_of(model), strict=True)
    ]


def _limits(args: argparse.Namespace) -> Limits:
    if args.min_sqnr is not None and not math.isfinite(args.min_sqnr):
        raise ValueError(f"--min-sqnr {args.min_sqnr:g}: expected a number of dB")
    if args.sqnr_data is not None and args.min_sqnr is None:
        raise ValueError(f"--sqnr-data {args.sqnr_data} needs --min-sqnr: the limit that it is held against")
    return Limits(Activations.parse(args.activations), args.min_sqnr, args.sqnr_data)
