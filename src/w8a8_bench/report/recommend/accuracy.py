"""Which schemes keep enough accuracy to be recommended: judged once for a model, not layer by layer.

What is judged is a scheme's SQNR, the least over the layers and m of the model. It is a property of the scheme and the
data, whatever the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from w8a8_bench.problem import Azp, Scaling
from w8a8_bench.problem.formats import Format
from w8a8_bench.report.recommend.choices import Requirements
from w8a8_bench.report.scheme import Scheme
from w8a8_bench.results.record import Record

REFERENCE = Scheme(Format.FP8, Scaling.parse("channel-w-token-a"), Azp.NONE)
"""What most checkpoints in 8 bits are, and what others are held against if nothing else is asked for."""

DATA = "outliers"

MOST_LOST_DB = 8.0
"""2.5 times the reference's noise. With outliers INT8 loses 11 dB with one scale, and 6 dB per channel and token."""

STAND_IN_DB = 20.0
"""The limit if the records lack the reference, which had 27.9 to 29.8 dB in every layer of `results/h200`."""

UNKNOWN = "unknown"

SqnrDb = Mapping[Scheme, Mapping[str, float]]
"""The SQNR of schemes in dB, by data."""


@dataclass(frozen=True)
class AccuracyLimit:
    """The SQNR that a scheme needs on `data` (None: on all data that there is one for), and how that limit came about.

    `least_db` None: there is no limit. `said` is a sentence.
    """

    least_db: float | None
    data: str | None
    said: str

    def why_not(self, scheme: Scheme, sqnr_db: SqnrDb) -> str | None:
        """The SQNR of a scheme that is not accurate enough, as text; None if it is. Sixteen bits are."""
        if self.least_db is None or scheme.scaling is None:
            return None
        of_scheme = sqnr_db.get(scheme, {})
        value = min(of_scheme.values(), default=None) if self.data is None else of_scheme.get(self.data)
        if value is None:
            return UNKNOWN
        return f"{value:.1f} dB" if value < self.least_db else None


def limit_of(required: Requirements, sqnr_db: SqnrDb) -> AccuracyLimit:
    """The limit that the user set; or else `MOST_LOST_DB` under the reference, or what stands in for that.

    Without an option and an SQNR of any scheme on `DATA`, there is none.
    """
    if required.any_accuracy:
        return AccuracyLimit(None, None, "Accuracy does not count (--any-accuracy).")
    if required.min_sqnr_db is not None:
        on = f"on {required.sqnr_data} data" if required.sqnr_data else "on all data"
        said = f"A scheme needs an SQNR of {required.min_sqnr_db:g} dB {on} (--min-sqnr)."
        return AccuracyLimit(required.min_sqnr_db, required.sqnr_data, said)
    if not any(DATA in of_scheme for of_scheme in sqnr_db.values()):
        return AccuracyLimit(
            None,
            None,
            f"Accuracy could not be judged, so speed alone decides: the records have no SQNR with {DATA}.",
        )
    reference = sqnr_db.get(REFERENCE, {}).get(DATA)
    if reference is None:
        return AccuracyLimit(
            STAND_IN_DB,
            DATA,
            f"On data with {DATA} a scheme needs an SQNR of {STAND_IN_DB:g} dB. The records lack {REFERENCE.text}, "
            "or others would be compared with it.",
        )
    return AccuracyLimit(
        reference - MOST_LOST_DB,
        DATA,
        f"On data with {DATA} a scheme may lose {MOST_LOST_DB:g} dB of SQNR against {REFERENCE.text}, which has "
        f"{reference:.1f} dB here.",
    )


def least_sqnr_db(records: Iterable[Record]) -> SqnrDb:
    """The least of every scheme and data over `records`."""
    least: dict[Scheme, dict[str, float]] = {}
    for record in records:
        if record.scheme_sqnr_db:
            of_scheme = least.setdefault(Scheme.of(record.problem), {})
            for data, value in record.scheme_sqnr_db.items():
                of_scheme[data] = min(value, of_scheme.get(data, value))
    return least
