"""What the answer could not consider, since the records lack it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from w8a8_bench.problem import Activations, Azp
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.report.scheme import ALSO_CALLED
from w8a8_bench.results.record import Record

KINDS = (Activations.PREQUANTIZED, Activations.DYNAMIC)


def not_considered(
    records: Iterable[Record], activations: Activations, providers: Sequence[str], usable: Collection[str]
) -> tuple[str, ...]:
    """What no record has, compared with what this project can measure: a text each for formats, schemes, zero points,
    libraries (of `providers`) and kinds of activations.

    Formats, schemes and zero points are those of records with these `activations`. Of a format that is lacking, no
    scheme is named. `usable` are the libraries with a time to choose: others have records without one.
    """
    scaled = [record for record in records if record.problem.scaling]
    same = [record.problem for record in scaled if record.problem.activations is activations]
    formats = {problem.format for problem in same}
    schemes = {(problem.format, problem.scheme) for problem in same}
    kinds = {record.problem.activations for record in scaled}
    found = {record.provider for record in scaled}
    lacking = {
        "formats": [fmt.value for fmt in W8A8_FORMATS if fmt not in formats],
        "schemes": [
            f"{fmt.value} {scheme}" for fmt, scheme in ALSO_CALLED if fmt in formats and (fmt, scheme) not in schemes
        ],
        "zero points": [Format.INT8.value]
        if Format.INT8 in formats and all(problem.azp is Azp.NONE for problem in same)
        else [],
        "libraries": [name for name in providers if name not in found],
        "usable times of": sorted(found - set(usable)),
        "activations": [kind.value for kind in KINDS if kind not in kinds],
    }
    return tuple(f"{what} {', '.join(names)}" for what, names in lacking.items() if names)
