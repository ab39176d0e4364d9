"""Which kernel and which scheme to run a model with: layer by layer, and for the whole model.

Nothing is measured here. A layer's cells are found by its shape, whatever sweep they come from, and its time counts as
often as one forward pass does it. What can't be summed whole is not summed: `Recommendation.notes` say what is missing,
and what was left out of the choice and why.

Ties go to what is simpler. Of all that is not slower than the fastest by more than `TIE`, at the lower end of the
ratio's interval, the scheme with the fewest parts is taken (`Scheme.complexity`), then precise before fast
accumulation, then the fastest. Sixteen bits are the simplest: if nothing beats them, they stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from w8a8_bench import stats
from w8a8_bench.problem import BLOCKWISE
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.recommend.accuracy import AccuracyLimit, SqnrDb, least_sqnr_db, limit_of
from w8a8_bench.report.recommend.choices import (
    FAST_ACCUM,
    CandidateKernel,
    Candidates,
    ModelLayer,
    Requirements,
    device_of,
    geometric_mean,
    ratio,
)
from w8a8_bench.report.recommend.engines import ENGINES, Engine, Way
from w8a8_bench.report.recommend.lacking import not_considered
from w8a8_bench.report.scheme import Scheme
from w8a8_bench.results.json_lines import Results

TIE = 0.01
"""Two sweeps of the same cells differ by up to 1%: what wins by less today may lose tomorrow."""

ENVIRONMENT = ("torch", "triton", "driver", "power_limit_w", "w8a8_bench")
"""What may differ between files, and is noted then."""

SOFTWARE = ("w8a8_bench", "torch", "driver")
"""Of an environment, what is said of records that come with this program, beside the versions of the libraries."""

CUDA = "cuda"
"""The kind of a device that inference engines' options are for."""

Table = Mapping[tuple[ModelLayer, int], Sequence[CandidateKernel]]
"""What there is to choose from, by layer and m; the baseline comes first."""


Mix = Mapping[int, float] | None
"""How often a forward pass has m tokens; None: every m is as important."""


@dataclass(frozen=True)
class LayerChoice:
    """The best of one layer at one m, and the baseline beside it."""

    layer: ModelLayer
    m: int
    baseline: CandidateKernel
    best: CandidateKernel


@dataclass(frozen=True)
class Total:
    """Time in seconds of the GEMMs of one forward pass, layers times counts, and what every layer runs with.

    `speedup` is the baseline's total over this one. Its interval comes from the paired ratios of the layers.
    """

    time: stats.Estimate
    speedup: stats.Estimate
    choices: Mapping[ModelLayer, CandidateKernel]


@dataclass(frozen=True)
class SchemeTotals:
    """One scheme for all layers, with its best kernel in each.

    by_m     totals of those m at which every layer has a time under it
    overall  geometric mean of the speed-ups over all m that can be summed, every m alike; with a mix of m, the
             speed-up of its total time. None if it lacks an m
    sqnr_db  data to the smallest SQNR over layers and m, in dB; empty if unknown
    too_low  the SQNR for which it is not recommended, as text; None if it is accurate enough
    """

    scheme: Scheme
    by_m: Mapping[int, Total]
    overall: stats.Estimate | None
    sqnr_db: Mapping[str, float]
    too_low: str | None

    @property
    def providers(self) -> list[str]:
        """Whose kernels it runs with."""
        return sorted({c.record.provider for total in self.by_m.values() for c in total.choices.values()})


@dataclass(frozen=True)
class ModelTime:
    """The whole model at one m: in 16 bits, with the best of every layer, and with the best one scheme for all."""

    m: int
    baseline: Total
    mix: Total
    scheme: Scheme
    single: Total


@dataclass(frozen=True)
class AtM:
    """The best scheme of one library at one m, and how much longer the one for every m takes there, as a ratio."""

    m: int
    best: SchemeTotals
    ratio: stats.Estimate


@dataclass(frozen=True)
class OneLibrary:
    """The best scheme with the kernels of one library, for all layers and every m. Scheme and library are those of
    `deploy`; `ratio` is its time over that of the best scheme and library of each m.
    """

    deploy: SchemeTotals
    by_m: tuple[AtM, ...]
    ratio: stats.Estimate


@dataclass(frozen=True)
class EngineChoice:
    """What to run in an inference engine, of what it can run at every m: one scheme with the kernels of one library,
    or 16 bits. None if it can run no W8A8 kernel that there is to choose.
    """

    engine: Engine
    deploy: SchemeTotals | None

    @property
    def way(self) -> Way | None:
        """How it runs `deploy`; None for 16 bits."""
        if self.deploy is None or self.deploy.scheme.scaling is None:
            return None
        return self.engine.way(self.deploy.scheme, *self.deploy.providers)


@dataclass(frozen=True)
class Book:
    """Where records come from that nobody named: those that come with this program.

    days      of their measurement, the first and the last
    versions  of the software and the libraries that they were measured with, by name
    """

    device: str
    days: tuple[str, str]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, files: Sequence[Results]) -> Book:
        headers = [header for file in files for header in file.headers]
        days = sorted(header.time[:10] for header in headers)
        versions: dict[str, dict[str, None]] = {}
        for header in headers:
            named = header.environment.get("providers")
            libraries = named if isinstance(named, Mapping) else {}
            software = {name: header.environment[name] for name in SOFTWARE if name in header.environment}
            for name, version in {**software, **libraries}.items():
                versions.setdefault(str(name), {})[str(version)] = None
        said = {name: ", ".join(several) for name, several in versions.items()}
        return cls(str(device_of(headers[0])), (days[0], days[-1]), said)


@dataclass(frozen=True)
class Recommendation:
    """`deploy` is the scheme to take for all layers and every m; the rest says what it and the others gain.

    partial    what might be taken instead, were its times complete, with the mean over the m that it has; or None
    unlimited  what would be taken without a limit to the SQNR, if that is another scheme
    limit      the accuracy that a scheme needs
    schemes    also those that are not accurate enough
    of_all     the same schemes with the kernels of all libraries, if the choice is among some
    best_of_all     what would be taken of these, and how many times faster it is; None if the choice is among all
    not_considered  what the records lack
    dropped    how many cells were left out of the choice, by the reason
    one_library  what to take if all layers and m run with the kernels of one library
    book       what the records are, if they come with this program; None if the user named them
    engines    what to take in each inference engine that is known; empty if the records are not of a GPU
    """

    model: str
    tp: int
    device: str
    data: str
    measure: str
    files: tuple[str, ...]
    required: Requirements
    layers: tuple[LayerChoice, ...]
    times: tuple[ModelTime, ...]
    schemes: tuple[SchemeTotals, ...]
    deploy: SchemeTotals
    partial: SchemeTotals | None
    unlimited: SchemeTotals | None
    limit: AccuracyLimit
    of_all: tuple[SchemeTotals, ...]
    best_of_all: tuple[SchemeTotals, stats.Estimate] | None
    not_considered: tuple[str, ...]
    dropped: Mapping[str, int]
    one_library: OneLibrary
    engines: tuple[EngineChoice, ...]
    book: Book | None
    notes: tuple[str, ...]


def recommend(
    model: str,
    tp: int,
    layers: Sequence[ModelLayer],
    files: Sequence[Results],
    required: Requirements,
    cut_blocks: Sequence[str] = (),
    providers: Sequence[str] = (),
    *,
    from_book: bool = False,
) -> Recommendation:
    """What to run `model` with, whose `layers` are those of one of `tp` ranks.

    `cut_blocks` are notes for blockwise schemes, `providers` all libraries that could have been measured. `from_book`:
    nobody named the `files`.
    Raises ValueError with one line as `Candidates` does, and if a layer is in no record, none is of the baseline,
    no W8A8 kernel has a time, data of that name has no SQNR, or no m has all layers.
    """
    candidates = Candidates(model, layers, files, required)
    counted = [layer for layer in layers if layer.count is not None]
    mix = required.mix
    sizes = sorted({m for layer in counted for m in candidates.batch_sizes(layer) if mix is None or m in mix})
    _refuse_lacking(model, tp, counted, candidates, required)
    every = {
        (layer, m): candidates.choices(layer, m)
        for layer in layers
        for m in candidates.batch_sizes(layer)
        if mix is None or m in mix
    }
    table: Table = {where: choices for where, choices in every.items() if choices}
    _refuse_mix(mix, counted, candidates, table)
    if not any(len(table.get((layer, m), ())) > 1 for layer in counted for m in sizes):
        raise ValueError(f"no W8A8 kernel in the records of {model} to choose: {'; '.join(candidates.notes())}")
    gaps = _gaps(counted, sizes, table)
    whole = [m for m in sizes if all((layer, m) in table for layer in counted)]
    if not whole:
        raise ValueError(f"no m at which every layer of {model} has a time of {BASELINE}: {gaps[0]}")
    baselines = {m: _total({layer: table[layer, m][0] for layer in counted}) for m in whole}
    sqnr_db = least_sqnr_db(candidates.records)
    limit = limit_of(required, sqnr_db)
    everything, table = table, _of_providers(table, required.providers)
    of_all = _schemes(counted, baselines, everything, sqnr_db, limit, mix)
    schemes = _schemes(counted, baselines, table, sqnr_db, limit, mix) if required.providers else of_all
    accurate = [row for row in schemes if row.too_low is None]
    enough = {
        where: [one for one in choices if not limit.why_not(one.scheme, sqnr_db)] for where, choices in table.items()
    }
    deploy = _best_scheme([row for row in accurate if row.overall], whole, mix)
    unlimited = _best_scheme([row for row in schemes if row.overall], whole, mix)

    def by_library(choices: Table) -> list[SchemeTotals]:
        return [
            row
            for name in sorted(_providers(choices))
            for row in _schemes(counted, baselines, _of_providers(choices, [name]), sqnr_db, limit, mix)
            if row.scheme.scaling and row.by_m
        ]

    sixteen_bits = next(row for row in accurate if row.scheme.scaling is None)
    is_cuda = any(header.device.get("kind") == CUDA for file in files for header in file.headers)
    runnable = {engine: by_library(_of_engine(enough, engine)) for engine in (ENGINES if is_cuda else ())}
    return Recommendation(
        model=model,
        tp=tp,
        device=candidates.device,
        data=candidates.data,
        measure=candidates.measure,
        files=tuple(str(file.path) for file in files),
        required=required,
        layers=tuple(LayerChoice(*where, choices[0], _best(choices)) for where, choices in enough.items()),
        times=tuple(_model_time(m, counted, baselines[m], accurate, enough) for m in whole),
        schemes=schemes,
        deploy=deploy,
        partial=_partial(accurate, deploy, mix),
        unlimited=unlimited if unlimited.scheme != deploy.scheme else None,
        limit=limit,
        of_all=of_all if required.providers else (),
        best_of_all=_best_of_all(of_all, deploy, whole, mix) if required.providers else None,
        not_considered=not_considered(candidates.records, required.activations, providers, _providers(everything)),
        dropped=candidates.dropped(),
        one_library=_one_library([sixteen_bits, *by_library(enough)], whole, mix),
        engines=tuple(
            EngineChoice(engine, _best_scheme([sixteen_bits, *complete], whole, mix) if complete else None)
            for engine, rows in runnable.items()
            for complete in [[row for row in rows if row.overall]]
        ),
        book=Book.of(files) if from_book else None,
        notes=(
            *_uncounted(layers),
            *(cut_blocks if any(one.scheme.scaling == BLOCKWISE for one in schemes) else ()),
            *gaps,
            *_gaps_of_schemes(schemes, counted, whole, table),
            *candidates.notes(),
            *_environments(files),
        ),
    )


def _refuse_lacking(
    model: str, tp: int, counted: Sequence[ModelLayer], candidates: Candidates, required: Requirements
) -> None:
    missing = [str(layer) for layer in counted if not candidates.batch_sizes(layer)]
    if missing:
        raise ValueError(
            f"no records of {', '.join(missing)} of {model} at TP {tp}: "
            f"measure them with model_bench --models {model} --tp-sizes {tp}"
        )
    if not candidates.measure:
        raise ValueError(f"no time of {BASELINE} in the records of {model}: what is chosen is compared with it")
    kinds = {record.problem.activations.value for record in candidates.records if record.problem.scaling}
    if required.activations.value not in kinds:
        has = f"they have {', '.join(sorted(kinds))}" if kinds else "they have none that is W8A8"
        raise ValueError(f"no kernel with {required.activations.value} activations in the records of {model}: {has}")
    data = {name for record in candidates.records for name in record.scheme_sqnr_db}
    if required.min_sqnr_db is not None and not data:
        raise ValueError(f"no SQNR in the records of {model}, which --min-sqnr asks for: measure them again")
    if required.sqnr_data is not None and required.sqnr_data not in data:
        raise ValueError(
            f"data {required.sqnr_data!r} has no SQNR in the records of {model}: expected one of "
            f"{', '.join(sorted(data))}"
        )


def _of_providers(table: Table, providers: Sequence[str]) -> Table:
    """What kernels of `providers` (none: all) can do, and the baseline. Raises ValueError if that is all."""
    if not providers:
        return table
    kept = {
        where: [choices[0], *(c for c in choices[1:] if c.record.provider in providers)]
        for where, choices in table.items()
    }
    if all(len(choices) == 1 for choices in kept.values()):
        raise ValueError(
            f"no kernel of {', '.join(providers)} to choose: those that can be chosen in these records are of "
            f"{', '.join(sorted(_providers(table)))}"
        )
    return kept


def _of_engine(table: Table, engine: Engine) -> Table:
    """What an engine can run at every m, and the baseline. None that is known asks for fast accumulation by itself."""
    return {
        where: [
            choices[0],
            *(
                choice
                for choice in choices[1:]
                if (way := engine.way(choice.scheme, choice.record.provider)).runs
                and way.every_m
                and not choice.record.kernel.endswith(FAST_ACCUM)
            ),
        ]
        for where, choices in table.items()
    }


def _providers(table: Table) -> set[str]:
    return {choice.record.provider for choices in table.values() for choice in choices[1:]}


def _best_of_all(
    of_all: Sequence[SchemeTotals], deploy: SchemeTotals, sizes: Sequence[int], mix: Mix
) -> tuple[SchemeTotals, stats.Estimate]:
    best = _best_scheme([row for row in of_all if row.too_low is None and row.overall], sizes, mix)
    return best, _against(deploy, best, sizes, mix)


def _one_library(rows: Sequence[SchemeTotals], sizes: Sequence[int], mix: Mix) -> OneLibrary:
    """Of `rows`, each of one scheme and one library. What is within `TIE` of the best at an m counts as the best."""
    deploy = _best_scheme([row for row in rows if row.overall], sizes, mix)
    by_m = []
    for m in sizes:
        best = _best_scheme([row for row in rows if m in row.by_m], [m], mix)
        ratio_to_best = _against(deploy, best, [m], mix)
        if deploy is best or not _is_slower(ratio_to_best):
            best, ratio_to_best = deploy, stats.Estimate(1.0, (1.0, 1.0))
        by_m.append(AtM(m, best, ratio_to_best))
    ratios, times = {one.m: one.ratio for one in by_m}, {one.m: one.best.by_m[one.m] for one in by_m}
    return OneLibrary(deploy, tuple(by_m), _mean(ratios, times, mix))


def _refuse_mix(mix: Mix, counted: Sequence[ModelLayer], candidates: Candidates, table: Table) -> None:
    """Raise ValueError if an m of the mix has no time of the whole model."""
    lacking = [m for m in mix or () if not all((layer, m) in table for layer in counted)]
    if lacking:
        known = sorted(set.intersection(*(set(candidates.batch_sizes(layer)) for layer in counted)))
        raise ValueError(
            f"no time of the whole model at m={', '.join(map(str, lacking))}, which the mix of m has: the records have "
            f"all layers at m={', '.join(map(str, known))}"
        )


def _best(choices: Sequence[CandidateKernel]) -> CandidateKernel:
    fastest = max(choices, key=lambda choice: choice.speedup.median)
    return min((one for one in choices if not _is_slower(ratio(one, fastest))), key=lambda choice: choice.rank)


def _is_slower(against: stats.Estimate) -> bool:
    return against.interval is not None and against.interval[0] > 1 + TIE


def _model_time(
    m: int, counted: Sequence[ModelLayer], baseline: Total, schemes: Sequence[SchemeTotals], table: Table
) -> ModelTime:
    mix = _total({layer: _best(table[layer, m]) for layer in counted}, baseline)
    single = _best_scheme([one for one in schemes if m in one.by_m], [m], None)
    return ModelTime(m, baseline, mix, single.scheme, single.by_m[m])


def _schemes(
    counted: Sequence[ModelLayer],
    baselines: Mapping[int, Total],
    table: Table,
    sqnr_db: SqnrDb,
    limit: AccuracyLimit,
    mix: Mix,
) -> tuple[SchemeTotals, ...]:
    """Every scheme that has any time, the simplest first."""
    found = {choice.scheme for layer in counted for m in baselines for choice in table[layer, m]}
    rows = []
    for scheme in sorted(found, key=lambda one: (one.complexity, one.text)):
        by_m: dict[int, Total] = {}
        for m, baseline in baselines.items():
            own = {layer: [one for one in table[layer, m] if one.scheme == scheme] for layer in counted}
            if all(own.values()):
                by_m[m] = _total({layer: _best(choices) for layer, choices in own.items()}, baseline)
        overall = _mean_speedup(by_m, mix) if len(by_m) == len(baselines) else None
        too_low = limit.why_not(scheme, sqnr_db)
        rows.append(SchemeTotals(scheme, by_m, overall, sqnr_db.get(scheme, {}), too_low))
    return tuple(rows)


def _partial(schemes: Sequence[SchemeTotals], deploy: SchemeTotals, mix: Mix) -> SchemeTotals | None:
    """Of the schemes that lack some m, the one that gains most over `deploy` at the m that it has."""
    gains: list[tuple[float, SchemeTotals]] = []
    for row in schemes:
        if row.overall is not None or not row.by_m:
            continue
        gain = _against(deploy, row, list(row.by_m), mix)
        if _is_slower(gain):
            speedup = _mean_speedup(row.by_m, mix)
            gains.append((gain.median, replace(row, overall=speedup)))
    return max(gains, key=lambda one: one[0])[1] if gains else None


def _best_scheme(rows: Sequence[SchemeTotals], sizes: Sequence[int], mix: Mix) -> SchemeTotals:
    """The best scheme over `sizes`, at all of which each of `rows` has a total."""

    def gain(row: SchemeTotals) -> float:
        return _mean_speedup({m: row.by_m[m] for m in sizes}, mix).median

    fastest = max(rows, key=gain)
    tied = [row for row in rows if not _is_slower(_against(row, fastest, sizes, mix))]
    return min(tied, key=lambda row: (row.scheme.complexity, -gain(row), row.scheme.text))


def _against(row: SchemeTotals, other: SchemeTotals, sizes: Sequence[int], mix: Mix) -> stats.Estimate:
    """Time of one over time of the other, the mean over `sizes`."""
    ratios = {m: _ratio_of_sums(row.by_m[m].choices, other.by_m[m].choices) for m in sizes}
    return _mean(ratios, other.by_m, mix)


def _mean_speedup(by_m: Mapping[int, Total], mix: Mix) -> stats.Estimate:
    return _mean({m: total.speedup for m, total in by_m.items()}, by_m, mix)


def _mean(ratios: Mapping[int, stats.Estimate], totals: Mapping[int, Total], mix: Mix) -> stats.Estimate:
    """Of ratios of times to `totals`: the geometric mean, or with a mix of m the ratio of the whole times."""
    if mix is None:
        return geometric_mean(list(ratios.values()))
    whole = math.fsum(mix[m] * totals[m].time.median for m in ratios)
    shares = {m: mix[m] * totals[m].time.median / whole for m in ratios}
    middle = math.fsum(share * ratios[m].median for m, share in shares.items())
    known = [(share, ratios[m].median, *ends) for m, share in shares.items() if (ends := ratios[m].interval)]
    if len(known) < len(ratios):
        return stats.Estimate(middle, None)
    below = math.hypot(*(share * (median - low) for share, median, low, _ in known))
    above = math.hypot(*(share * (high - median) for share, median, _, high in known))
    return stats.Estimate(middle, (middle - below, middle + above))


def _total(choices: Mapping[ModelLayer, CandidateKernel], baseline: Total | None = None) -> Total:
    """The sum over layers, which were timed independently of each other; without `baseline`, it is the baseline."""
    parts = [(_count(layer), choice.time) for layer, choice in choices.items()]
    middle = sum(count * time.median for count, time in parts)
    below = math.hypot(*(count * (time.median - time.interval[0]) for count, time in parts if time.interval))
    above = math.hypot(*(count * (time.interval[1] - time.median) for count, time in parts if time.interval))
    speedup = _ratio_of_sums(baseline.choices, choices) if baseline else stats.Estimate(1.0, (1.0, 1.0))
    return Total(stats.Estimate(middle, (middle - below, middle + above)), speedup, choices)


def _ratio_of_sums(a: Mapping[ModelLayer, CandidateKernel], b: Mapping[ModelLayer, CandidateKernel]) -> stats.Estimate:
    """Total of a over total of b. Its interval is that of the layers' ratios, each with its share of b's total."""
    total_a, total_b = (sum(_count(layer) * c.time.median for layer, c in one.items()) for one in (a, b))
    middle, below, above = total_a / total_b, 0.0, 0.0
    for layer, choice in b.items():
        of_layer, share = ratio(a[layer], choice), _count(layer) * choice.time.median / total_b
        if of_layer.interval is None:
            return stats.Estimate(middle, None)
        below = math.hypot(below, share * (of_layer.median - of_layer.interval[0]))
        above = math.hypot(above, share * (of_layer.interval[1] - of_layer.median))
    return stats.Estimate(middle, (middle - below, middle + above))


def _count(layer: ModelLayer) -> int:
    assert layer.count is not None, "only counted layers are summed"
    return layer.count


def _uncounted(layers: Sequence[ModelLayer]) -> list[str]:
    names = [layer.name for layer in layers if layer.count is None]
    if not names:
        return []
    return [f"not in any sum, since an expert sees the tokens that were routed to it and not all m: {', '.join(names)}"]


def _gaps(counted: Sequence[ModelLayer], sizes: Sequence[int], table: Table) -> list[str]:
    """The m that can't be summed, and what they lack."""
    lacking = {m: [str(layer) for layer in counted if (layer, m) not in table] for m in sizes}
    return [
        f"no time of the whole model at m={m}, for want of records or of the baseline's time: {', '.join(names)}"
        for m, names in lacking.items()
        if names
    ]


def _gaps_of_schemes(
    schemes: Sequence[SchemeTotals], counted: Sequence[ModelLayer], whole: Sequence[int], table: Table
) -> list[str]:
    lines = []
    for row in schemes:
        lacking: dict[tuple[str, ...], list[int]] = {}
        for m in (m for m in whole if m not in row.by_m):
            names = [layer.name for layer in counted if not any(c.scheme == row.scheme for c in table[layer, m])]
            lacking.setdefault(tuple(names), []).append(m)
        for without, sizes in lacking.items():
            at, lacks = ", ".join(map(str, sizes)), ", ".join(without)
            lines.append(f"no time of the whole model with {row.scheme.text} at m={at}, which lacks {lacks}")
    return lines


def _environments(files: Sequence[Results]) -> list[str]:
    """What differs between the files' environments, so that a comparison across them is one of two set-ups too."""
    lines = []
    cards = {
        str(device["uuid"]): None
        for file in files
        for header in file.headers
        for device in header.devices or (header.device,)
        if device.get("uuid")
    }
    if len(cards) > 1:
        lines.append(f"the records are of {len(cards)} GPUs of one name, which may differ: {', '.join(cards)}")
    for name in ENVIRONMENT:
        values = {str(header.environment.get(name)): None for file in files for header in file.headers}
        if len(values) > 1:
            lines.append(f"the files differ in {name}: {', '.join(values)}")
    return lines
