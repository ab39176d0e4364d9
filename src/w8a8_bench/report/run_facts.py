"""What was measured on, how, and how quiet it was: named facts of a set of results, as text."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from w8a8_bench import stats
from w8a8_bench.analysis import metrics
from w8a8_bench.report.comparable_runs import ResultSet, is_measure
from w8a8_bench.report.rows import CellRow
from w8a8_bench.results.record import RunHeader
from w8a8_bench.text import counted
from w8a8_bench.timing.measures import MEANINGS

Facts = list[tuple[str, str]]

GIB = 1 << 30
MIB = 1 << 20

SOFTWARE = {
    "w8a8_bench": "w8a8-bench",
    "git_revision": "git revision",
    "torch": "torch",
    "torch_cuda": "CUDA of torch",
    "triton": "Triton",
    "driver": "driver",
    "driver_cuda": "CUDA of the driver",
    "nvml": "NVML",
    "python": "Python",
    "platform": "platform",
    "cpu": "CPU",
    "cpu_threads": "CPU threads",
}
"""Names that readers know; other facts of an environment keep their own."""


@dataclass(frozen=True)
class Noise:
    """How far the baseline was from its own duplicate, over comparisons: the median and the largest |ratio - 1|."""

    median: float
    largest: float
    comparisons: int

    @property
    def text(self) -> str:
        return (
            f"the same kernel timed twice differs by {100 * self.median:.2f}% "
            f"(median of {counted(self.comparisons, 'shape')}), "
            f"{100 * self.largest:.2f}% at most"
        )


def noise_of(ratios: Sequence[stats.Estimate | None]) -> Noise | None:
    """None if nothing was timed twice."""
    apart = [abs(ratio.median - 1) for ratio in ratios if ratio]
    return Noise(stats.median(apart), max(apart), len(apart)) if apart else None


def noise_floors(results: ResultSet, measure: str | None) -> list[stats.Estimate | None]:
    """Of every comparison, parallel to `results.comparisons`."""
    if measure is None:
        return [None] * len(results.comparisons)
    return [metrics.noise_floor(one.end, one.records, measure) for one in results.comparisons]


def mixed(results: ResultSet) -> str:
    """Which files and days stand together, as a sentence; empty if it is one of each."""
    days = sorted({header.time[:10] for header in results.headers})
    if len(results.files) == 1 and len(days) == 1:
        return ""
    files = counted(len(results.files), "file")
    return f"Mixed: {files} ({', '.join(results.files)}), measured on {counted(len(days), 'day')} ({', '.join(days)})."


def device_facts(results: ResultSet) -> Facts:
    device, environment = results.devices[0], results.headers[0].environment
    facts = [("device", results.device_name)]
    facts += [("UUID", str(one["uuid"])) for one in results.devices if one.get("uuid")]
    if isinstance(capability := device.get("capability"), list | tuple):
        facts.append(("compute capability", ".".join(map(str, capability))))
    if device.get("sm_count"):
        facts.append(("multiprocessors", str(device["sm_count"])))
    for name, title, unit, scale in (
        ("memory_bytes", "memory", "GiB", GIB),
        ("l2_bytes", "L2", "MiB", MIB),
        ("memory_bandwidth", "memory bandwidth, nominal", "TB/s", 1e12),
        ("max_sm_clock_mhz", "highest SM clock", "MHz", 1),
    ):
        value = device.get(name)
        if is_measure(value):
            facts.append((title, f"{value / scale:.4g} {unit}"))
    limit = environment.get("power_limit_w")
    if is_measure(limit):
        facts.append(("power limit", f"{limit:.4g} W"))
    return facts


def software_facts(header: RunHeader) -> Facts:
    environment = {name: value for name, value in header.facts.items() if name != "power_limit_w"}
    order = [name for name in SOFTWARE if name in environment]
    order += [name for name in environment if name not in SOFTWARE]
    return [(SOFTWARE.get(name, name), str(environment[name])) for name in order if environment[name] is not None]


def run_facts(results: ResultSet) -> Facts:
    first = results.headers[0]
    settings, plan = first.settings, first.plan
    facts = [("measured", " and ".join(dict.fromkeys(header.time for header in results.headers)))]
    facts += [("command", text) for text in dict.fromkeys(shlex.join(header.command) for header in results.headers)]
    facts += [("file", name) for name in results.files]
    for name, title, said in (
        *(("data", "timed data", settings), ("timer", "timer", settings), ("duty", "duty", settings)),
        *(("seed", "seed", settings), ("rigor", "rigor", plan), ("processes", "processes", settings)),
    ):
        if name in said:
            facts.append((title, str(said[name])))
    measures = settings.get("measures")
    if isinstance(measures, list):
        facts += [(str(name), MEANINGS[str(name)]) for name in measures if str(name) in MEANINGS]
    return facts


def quiet_facts(results: ResultSet, rows: Sequence[Sequence[CellRow]], measure: str | None) -> Facts:
    """Clocks, power, heat and noise: what a reader trusts the numbers by."""
    facts: Facts = []
    if noise := noise_of(noise_floors(results, measure)):
        facts.append(("noise floor", noise.text))
    timed = [row.times[measure] for group in rows for row in group if measure in row.times] if measure else []
    clocks = [times.clock_mhz for times in timed if times.clock_mhz]
    if clocks:
        facts.append(("SM clock of the samples", _spread(clocks, "MHz")))
    machines = [one.end.machine for one in results.comparisons]
    lists = (machine["blocks"] for machine in machines if isinstance(machine.get("blocks"), list))
    blocks: list[Mapping[str, object]] = [block for one in lists for block in one if isinstance(block, Mapping)]
    for name, title, unit in (
        ("power_w", "power", "W"),
        ("temperature_c", "temperature", "°C"),
        ("memory_clock_mhz", "memory clock", "MHz"),
    ):
        values = [value for block in blocks if is_measure(value := block.get(name))]
        if values:
            facts.append((title, _spread(values, unit)))
    if blocks:
        lists = (block["throttle"] for block in blocks if isinstance(block.get("throttle"), list))
        counts = Counter(str(reason) for one in lists for reason in one)
        reasons = [f"{reason} in {count} of {len(blocks)} blocks" for reason, count in counts.items()]
        facts.append(("throttle reasons", ", ".join(reasons) or "none"))
    voided = sum(_count(machine.get("voided_blocks")) for machine in machines)
    if voided:
        facts.append(("void blocks", f"{voided}, taken again: thermal or hardware slowdown"))
    others = max((_count(machine.get("other_processes")) for machine in machines), default=0)
    if others:
        facts.append(("other processes", f"{others} on this GPU; their work is in the times"))
    telemetry = dict.fromkeys(str(machine.get("telemetry", "")) for machine in machines)
    return facts + [("telemetry", text) for text in telemetry if text.startswith("unavailable")]


def _spread(values: Sequence[float], unit: str) -> str:
    """The median, and the range of the values if that says more."""
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return f"{stats.median(values):.0f} {unit}" + (f", {low} to {high}" if low != high else "")


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
