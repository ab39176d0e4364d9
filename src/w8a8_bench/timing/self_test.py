"""The instrument tested on itself: is a known time measured as it is, and does identical code compare as identical?

Spins of known length come from `device_code`; GEMMs are PyTorch's in bf16, as any machine has them. The profiler comes
last, since it slows what is timed after it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import torch

from w8a8_bench import stats
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Launch
from w8a8_bench.problem.memory import MIN_LAUNCHES
from w8a8_bench.timing import rotation
from w8a8_bench.timing.blocks import run_blocks
from w8a8_bench.timing.cuda_graph import REPLAY_S, GraphSampler, GraphTimer, segments_of
from w8a8_bench.timing.method import Sample, rest_after
from w8a8_bench.timing.profiler import KernelSampler
from w8a8_bench.timing.settings import StopRule

SPINS_US = (3, 10, 30, 100, 300, 1000, 3000)
SLOPE_TOLERANCE = 0.005
GEMMS = ((16, 4096, 4096), (64, 4096, 4096), (512, 4096, 4096), (2048, 4096, 4096))
"""(m, n, k) from bound by memory to bound by arithmetic; all exceed a tenth of an L2."""
FITS_L2 = (16, 2048, 2048)
COUNT_TOLERANCE = 0.005
CONTROL_DIFFERENCE = 0.05
GAP_TOLERANCE_S = 0.2e-6
IDENTICAL_SIZES = (
    *((1, 1024, 1024), (16, 2048, 2048), (16, 4096, 4096), (16, 11008, 4096), (64, 4096, 4096), (128, 4096, 4096)),
    *((256, 4096, 4096), (512, 4096, 4096), (512, 11008, 4096), (1024, 4096, 4096), (2048, 4096, 4096), (4096,) * 3),
)
IDENTICAL_COMPARISONS = 300
IDENTICAL_ALLOWED = 0.01
SLOWED = {0.01: 0.90, 0.02: 0.99, 0.05: 1.0}
"""How much slower a spin is made, and the share of trials in which that must be found, with the right sign."""
SLOWED_SPINS_US = (10, 30, 100, 300)
SLOWED_TRIALS = 100
BLOCKS = StopRule(min_blocks=12, max_blocks=12)

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class SelfTestVerdict:
    """One property of the instrument: whether it holds here, the figure, and what was asked of it."""

    name: str
    passed: bool
    figure: str
    expected: str
    data: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {"kind": "verdict", **asdict(self)}


def run(device: Device, *, duty: float, seed: int, progress: Progress) -> Iterator[SelfTestVerdict]:
    """Every verdict on one GPU, as they come."""
    test = _SelfTest(device, duty, seed)
    steps: list[tuple[str, Callable[[], Iterator[SelfTestVerdict]]]] = [
        ("spins of known length", test.known_times),
        ("n against 2n launches", test.launch_counts),
        ("rotation against twice the rotation", test.rotations),
        ("identical kernels", partial(test.identical, lambda done: progress("identical kernels", 0.1 + 0.5 * done))),
        ("slowed kernels", partial(test.slowed, lambda done: progress("slowed kernels", 0.6 + 0.35 * done))),
        ("graph against profiler", test.gaps),
    ]
    starts = (0.0, 0.03, 0.06, 0.1, 0.6, 0.95)
    for (name, step), start in zip(steps, starts, strict=True):
        progress(name, start)
        yield from step()


@dataclass(frozen=True)
class _Gemm:
    """bf16 GEMMs on sets of operands, as many as make `plan` cold."""

    text: str
    launches: list[Launch]
    plan: rotation.RotationPlan


class _SelfTest:
    def __init__(self, device: Device, duty: float, seed: int) -> None:
        self._device, self._duty = device, duty
        self._random = random.Random(seed)
        self._seed = seed
        self._timer = GraphTimer(device)
        self._periods: dict[str, tuple[float, Sequence[Launch], rotation.RotationPlan]] = {}

    def known_times(self) -> Iterator[SelfTestVerdict]:
        """Spins of 3 us to 3 ms on the global timer: the period is a constant gap plus the time, and nothing else."""
        points = []
        for microseconds in SPINS_US:
            launches = [partial(self._timer.code.spin_ns, 1000 * microseconds)]
            sampler = self._timer.sampler(launches, max(MIN_LAUNCHES, round(REPLAY_S * 1e6 / microseconds)))
            period = self._median(sampler)
            points.append((1e-6 * microseconds, period))
            plan = rotation.RotationPlan(1, 0, scrub=False)
            self._periods[f"spin {microseconds} us"] = (period, launches, plan)
        slope, gap = _line_through(points)
        worst = max(abs(period - gap - slope * spin) / period for spin, period in points)
        data = {"spin_s": [spin for spin, _ in points], "period_s": [period for _, period in points]}
        yield SelfTestVerdict(
            "spin 3 us to 3 ms: slope",
            abs(slope - 1) <= SLOPE_TOLERANCE,
            f"{slope:.5f}",
            f"1 within {SLOPE_TOLERANCE:.1%}",
            data,
        )
        yield SelfTestVerdict(
            "spin 3 us to 3 ms: launch gap",
            0 < gap < 3e-6 and worst <= SLOPE_TOLERANCE,
            f"{1e6 * gap:.3f} us, residuals up to {worst:.2%}",
            f"above 0, below 3 us, residuals within {SLOPE_TOLERANCE:.1%}",
        )

    def launch_counts(self) -> Iterator[SelfTestVerdict]:
        """The time of a launch does not depend on how many a replay has."""
        for gemm in map(self._gemm, GEMMS):
            period = self._timer.period(gemm.launches, gemm.plan)
            n = gemm.plan.launches(period, REPLAY_S)
            # Twice the segments too: how long one is decides how far its pattern of launches settles.
            twice = self._timer.sampler(gemm.launches, 2 * n, segments=2 * segments_of(n))
            ratios = self._ratios([self._timer.sampler(gemm.launches, n)], twice)
            yield _same(f"n against 2n launches: {gemm.text}", ratios, f"n={n}, ")

    def rotations(self) -> Iterator[SelfTestVerdict]:
        """Twice the operand sets are not colder; one set is warmer if it fits the L2.

        The time of a GEMM depends on where its operands lie: tens of sets of the same differ by 1% from tens of others
        (H200). So the 2R sets in one rotation stand against the same sets in two rotations of R.
        """
        for shape in GEMMS[:3]:
            gemm = self._gemm(shape, times=2)
            sets = gemm.plan.sets
            n = gemm.plan.launches(self._timer.period(gemm.launches[:sets], gemm.plan), REPLAY_S)
            n = math.ceil(n / (2 * sets)) * 2 * sets
            halves = [self._timer.sampler(half, n) for half in (gemm.launches[:sets], gemm.launches[sets:])]
            ratios = self._ratios(halves, self._timer.sampler(gemm.launches, n))
            yield _same(f"rotation R against 2R: {gemm.text}", ratios, f"R={sets}, ")
        for shape in (FITS_L2, GEMMS[0]):
            gemm = self._gemm(shape)
            n = gemm.plan.launches(self._timer.period(gemm.launches, gemm.plan), REPLAY_S)
            one = self._timer.sampler(gemm.launches[:1], n)
            ratios = self._ratios([one], self._timer.sampler(gemm.launches, n))
            yield SelfTestVerdict(
                f"rotation R against 1, must differ: {gemm.text}",
                stats.median(ratios) >= 1 + CONTROL_DIFFERENCE,
                f"R={gemm.plan.sets}, {_ratio_text(ratios)}",
                f"at least {1 + CONTROL_DIFFERENCE:.2f}",
            )

    def identical(self, progress: Callable[[float], None]) -> Iterator[SelfTestVerdict]:
        """The same kernel on the same operands, captured twice: how often are the two called different?"""
        different, worst = 0, 0.0
        found: dict[str, int] = {}
        repeats = IDENTICAL_COMPARISONS // len(IDENTICAL_SIZES)
        for number, shape in enumerate(IDENTICAL_SIZES):
            gemm = self._gemm(shape)
            n = gemm.plan.launches(self._timer.period(gemm.launches, gemm.plan), REPLAY_S)
            for repeat in range(repeats):
                pair = [self._timer.sampler(gemm.launches, n, scrub=gemm.plan.scrub) for _ in range(2)]
                ratios = self._ratios([pair[0]], pair[1])
                verdict = stats.differs(ratios)
                worst = max(worst, abs(stats.median(ratios) - 1))
                different += verdict != 0
                found[gemm.text] = found.get(gemm.text, 0) + (verdict != 0)
                progress((number + (repeat + 1) / repeats) / len(IDENTICAL_SIZES))
        total = repeats * len(IDENTICAL_SIZES)
        low, high = _share_interval(different, total)
        yield SelfTestVerdict(
            f"identical kernels called different, of {total}",
            different <= IDENTICAL_ALLOWED * total,
            f"{different / total:.1%} ({low:.1%} to {high:.1%}), largest median {worst:.2%} off",
            f"at most {IDENTICAL_ALLOWED:.0%}",
            {"different_by_shape": found},
        )

    def slowed(self, progress: Callable[[float], None]) -> Iterator[SelfTestVerdict]:
        """A spin that takes 1, 2 and 5% longer: how often is it found, and with the right sign?"""
        repeats = SLOWED_TRIALS // len(SLOWED_SPINS_US)
        for number, (by, wanted) in enumerate(SLOWED.items()):
            right = wrong = 0
            for trial in range(repeats * len(SLOWED_SPINS_US)):
                microseconds = SLOWED_SPINS_US[trial % len(SLOWED_SPINS_US)]
                count = max(MIN_LAUNCHES, round(REPLAY_S * 1e6 / microseconds))
                fast, slow = (
                    self._timer.sampler([partial(self._timer.code.spin_ns, round(1000 * microseconds * factor))], count)
                    for factor in (1, 1 + by)
                )
                verdict = stats.differs(self._ratios([fast], slow))
                right, wrong = right + (verdict == 1), wrong + (verdict == -1)
                progress((number + trial / SLOWED_TRIALS) / len(SLOWED))
            total = repeats * len(SLOWED_SPINS_US)
            low, high = _share_interval(right, total)
            yield SelfTestVerdict(
                f"a spin slowed by {by:.0%} found, of {total}",
                right >= wanted * total and wrong == 0,
                f"{right / total:.0%} ({low:.0%} to {high:.0%}), wrong sign {wrong}",
                f"at least {wanted:.0%}, wrong sign 0",
            )

    def gaps(self) -> Iterator[SelfTestVerdict]:
        """Period less the profiler's duration is a constant, the gap between launches less what CUPTI adds to each.

        Of spins, which don't overlap: a GEMM's first blocks begin while its predecessor's last are still at work.
        """
        gaps = {}
        for name, (period, launches, plan) in self._periods.items():
            if period > 0.5e-3:
                continue  # a gap of a microsecond is lost in the clock's wander over milliseconds
            sampler = KernelSampler(self._timer, launches, plan)
            gaps[name] = period - stats.median([sampler.sample().seconds for _ in range(7)])
        spread = max(gaps.values()) - min(gaps.values())
        shown = ", ".join(f"{name} {1e6 * gap:.2f}" for name, gap in gaps.items())
        yield SelfTestVerdict(
            "graph period less profiler time",
            spread <= GAP_TOLERANCE_S,
            f"spread {1e6 * spread:.2f} us ({shown})",
            f"constant within {1e6 * GAP_TOLERANCE_S:.1f} us",
            {"gap_s": gaps},
        )

    def _gemm(self, shape: tuple[int, int, int], times: int = 1) -> _Gemm:
        """bf16 GEMMs on `times` the rotation that the plan asks for."""
        m, n, k = shape
        plan = rotation.plan(2 * (m * k + n * k + m * n), self._device.l2_bytes)
        device = self._device.torch_name
        generator = torch.Generator(device).manual_seed(self._seed)
        a0 = torch.randn(m, k, device=device, generator=generator, dtype=torch.bfloat16)
        w0 = torch.randn(n, k, device=device, generator=generator, dtype=torch.bfloat16)
        launches: list[Launch] = []
        for _ in range(times * plan.sets):
            a, b, out = a0.clone(), w0.clone().t(), torch.empty(m, n, device=device, dtype=torch.bfloat16)
            launches.append(partial(torch.mm, a, b, out=out))
        with self._timer.on_stream():
            for launch in launches:
                launch()
        return _Gemm(f"m={m} n={n} k={k}", launches, plan)

    def _ratios(self, ones: Sequence[GraphSampler], other: GraphSampler) -> list[float]:
        """Time of `other` over the mean of `ones`, block by block."""
        cells = {index: partial(self._rested, sampler) for index, sampler in enumerate((other, *ones))}
        taken = run_blocks(
            cells,
            rule=BLOCKS,
            headline="time",
            deadline=None,
            seed=self._random.randrange(2**32),
            after_block=lambda block: None,
            warm_up=True,
        )
        blocks = zip(*(taken.seconds(index, "time") for index in cells), strict=True)
        return [len(parts) * whole / math.fsum(parts) for whole, *parts in blocks]

    def _rested(self, sampler: GraphSampler) -> dict[str, Sample]:
        started = time.perf_counter()
        taken = sampler.sample()
        rest_after(taken, started, self._duty)
        return {"time": taken}

    def _median(self, sampler: GraphSampler) -> float:
        for _ in range(3):
            self._rested(sampler)
        return stats.median([self._rested(sampler)["time"].seconds for _ in range(BLOCKS.min_blocks)])


def _line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of y over x by least squares of relative errors, so that short times count as long ones."""
    weights = [1 / y**2 for _, y in points]
    total = math.fsum(weights)
    x_mean = math.fsum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    y_mean = math.fsum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    over = math.fsum(w * (x - x_mean) * (y - y_mean) for w, (x, y) in zip(weights, points, strict=True))
    under = math.fsum(w * (x - x_mean) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    slope = over / under
    return slope, y_mean - slope * x_mean


def _share_interval(count: int, total: int) -> tuple[float, float]:
    """95% interval of a share by Wilson's score, which holds near 0 and 1 too."""
    z, share = 1.959964, count / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    reach = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    # At the ends both are 0 or 1 exactly, which rounding may miss by a little.
    return (0.0 if count == 0 else middle - reach), (1.0 if count == total else middle + reach)


def _same(name: str, ratios: Sequence[float], prefix: str) -> SelfTestVerdict:
    return SelfTestVerdict(
        name,
        abs(stats.median(ratios) - 1) <= COUNT_TOLERANCE,
        prefix + _ratio_text(ratios),
        f"1 within {COUNT_TOLERANCE:.1%}",
    )


def _ratio_text(ratios: Sequence[float]) -> str:
    interval = stats.median_interval(ratios)
    return f"{stats.median(ratios):.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")
