"""The devices of a Ray cluster: each is measured by the ordinary worker process, through an actor that holds it.

An actor has its GPU alone, as Ray deals them out; on a cluster that is to measure on CPUs, each node has one. What a
node does is what this machine would do: its workers are `DeviceWorkers`, in another process of another machine.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from w8a8_bench.bench.compile_ahead import Compiled, compile_ahead
from w8a8_bench.bench.device_workers import DeviceWorkers, Finished
from w8a8_bench.bench.process import Progress, SweepRefused, WorkerLimits, WorkerLost
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem.comparison import Comparison
from w8a8_bench.results.record import flat
from w8a8_bench.text import few, in_one_line, one_line
from w8a8_bench.timing.settings import Settings

START_S = 300.0
"""How long a node may take to import torch and wake its device."""

CONNECT_S = 5.0
"""How long the head of a cluster may take to answer."""

LOOK_S = 2.0
"""How often nodes are looked at while they start."""

OF_MACHINES = ("platform", "cpu", "cpu_threads", "power_limit_w", "nvml")
"""Facts of an environment in which nodes may differ: they are no versions and no sources."""


@dataclass(frozen=True)
class Lost:
    """A worker that was lost on its node, as `WorkerLost` says."""

    reason: str
    status: Status
    cell: int | None


class Node:
    """What runs on a node, in an actor. It holds the workers of one device."""

    def __init__(self, wanted: str, limits: WorkerLimits) -> None:
        self._workers, self._limits = DeviceWorkers(wanted, limits), limits

    def hello(self) -> tuple[Device, dict[str, object]] | Lost:
        try:
            return self._workers.hello()
        except SweepRefused as error:
            return Lost(str(error), Status.FAILED, None)
        except WorkerLost as lost:
            return Lost(lost.reason, lost.status, lost.cell)

    def compile_ahead(self, comparisons: Sequence[Comparison]) -> tuple[Compiled, list[str]]:
        said: list[str] = []
        made = compile_ahead(
            [self._workers], comparisons, self._limits, progress=lambda done, of: None, said=said.append
        )
        return made, said

    def run(self, comparison: Comparison, settings: Settings) -> Finished | Lost:
        try:
            return self._workers.run(comparison, settings, lambda of, phase, what, done: None)
        except WorkerLost as lost:
            return Lost(lost.reason, lost.status, lost.cell)


class NodeWorkers:
    """The workers of one device of a cluster: what `DeviceWorkers` are, through an actor."""

    def __init__(self, ray: Any, actor: Any, node: str, node_id: str) -> None:
        self._ray, self._actor, self.node, self.node_id = ray, actor, node, node_id
        self.greeting = actor.hello.remote()
        self._hello: tuple[Device, dict[str, object]] | None = None

    def hello(self) -> tuple[Device, dict[str, object]]:
        """The device and the environment of the node. Raises SweepRefused if it has none of either."""
        if self._hello is None:
            found = self._get(self.greeting)
            if isinstance(found, Lost):
                raise SweepRefused(f"node {self.node}: {found.reason}")
            device, environment = found
            self._hello = replace(device, uuid=device.uuid or f"{device.kind} of {self.node}"), environment
        return self._hello

    @property
    def device(self) -> Device:
        return self.hello()[0]

    def compiling(self, comparisons: Sequence[Comparison]) -> Callable[[], tuple[Compiled, list[str]]]:
        """Have the node compile what it will need; what is returned waits for it. A node that is lost meanwhile has
        compiled nothing, and is found lost when it is to measure."""
        asked = self._actor.compile_ahead.remote(tuple(comparisons))

        def wait() -> tuple[Compiled, list[str]]:
            try:
                made, said = self._get(asked)
            except SweepRefused:
                return Compiled(), []
            return made, said

        return wait

    def run(self, comparison: Comparison, settings: Settings, progress: Progress) -> Finished:
        """As `DeviceWorkers.run`. Raises SweepRefused if the node is lost, so that another takes over."""
        progress(comparison, "time", f"on {self.node}", 0.0)
        found = self._get(self._actor.run.remote(comparison, settings))
        if isinstance(found, Lost):
            raise WorkerLost(found.reason, status=found.status, cell=found.cell)
        assert isinstance(found, Finished)
        return found

    def done(self) -> None:
        """End the actor. Its workers end with their parent."""
        self._ray.kill(self._actor)

    def _get(self, asked: Any) -> Any:
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            raise SweepRefused(f"node {self.node} is lost: {in_one_line(error)[:300]}") from None


@contextlib.contextmanager
def joined(address: str) -> Any:
    """Ray, connected to the cluster at `address` until the end. Raises SweepRefused."""
    try:
        import ray
    except ImportError as error:
        raise SweepRefused(f"--cluster needs Ray: {error}; pip install 'ray>=2.9' adds it") from None
    _refuse_nobody(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        why = one_line(str(error))[:300]
        raise SweepRefused(f"no Ray cluster at {address}: {why}; `ray start --head` starts one") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _refuse_nobody(address: str) -> None:
    """Raise SweepRefused at once if nobody listens at an address, for which Ray would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise SweepRefused(f"--cluster {address!r}: expected auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise SweepRefused(f"no Ray cluster at {address}: {why}; `ray start --head` starts one") from None


def start(ray: Any, wanted: str, limits: WorkerLimits, said: Callable[[str], None]) -> list[NodeWorkers]:
    """Workers of every GPU of the cluster, or for `cpu` of every node, once all have said what they are. Nodes that are
    lost meanwhile are left out, which is `said`.

    Raises SweepRefused if there is none, if one does not start, or if versions or sources of nodes are not the same.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
    names = _names(alive)
    actor = ray.remote(max_restarts=0)(Node)
    started = []
    for node, name in zip(alive, names, strict=True):
        count = 1 if wanted == "cpu" else int(node["Resources"].get("GPU", 0))
        on_node = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}
        alone = {"num_cpus": 1} if wanted == "cpu" else {"num_cpus": 0, "num_gpus": 1}
        for number in range(count):
            one = actor.options(**on_node, **alone).remote("cpu" if wanted == "cpu" else "cuda", limits)
            called = name if count == 1 else f"{name} GPU {number}"
            started.append(NodeWorkers(ray, one, called, node["NodeID"]))
    if not started:
        raise SweepRefused(f"none of the cluster's nodes ({few(names)}) has a GPU: --device cpu measures on their CPUs")
    there = _wait(ray, started, said)
    refuse_differing({one.node: one.hello()[1] for one in there})
    return there


def _wait(ray: Any, started: Sequence[NodeWorkers], said: Callable[[str], None]) -> list[NodeWorkers]:
    """Those that have started, in order. Ray takes some time to notice that a node is gone, and its actors wait."""
    left, end = list(started), time.monotonic() + START_S
    while True:
        _, waiting = ray.wait([one.greeting for one in left], num_returns=len(left), timeout=LOOK_S)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for one in [one for one in left if one.node_id not in alive]:
            said(f"node {one.node} is gone, and is left out")
            left.remove(one)
        if not left:
            raise SweepRefused("every node of the cluster is gone")
        late = [one for one in left if one.greeting in waiting]
        if not late:
            return left
        if time.monotonic() > end:
            raise SweepRefused(f"node {late[0].node} did not start within {START_S:g} s")


def _names(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Host names; with the beginning of Ray's own where several nodes are on one host."""
    hosts = [str(node["NodeManagerHostname"]) for node in nodes]
    return [
        host if hosts.count(host) == 1 else f"{host}-{node['NodeID'][:6]}"
        for host, node in zip(hosts, nodes, strict=True)
    ]


def refuse_differing(environments: Mapping[str, Mapping[str, object]]) -> None:
    """Raise SweepRefused if a version or a source is not the same on all nodes, with the nodes' names."""
    facts = {node: flat(environment) for node, environment in environments.items()}
    for name in dict.fromkeys(name for of_node in facts.values() for name in of_node):
        if name.split(".")[0] in OF_MACHINES:
            continue
        by_value: dict[str, list[str]] = {}
        for node, of_node in facts.items():
            by_value.setdefault(str(of_node.get(name)), []).append(node)
        if len(by_value) > 1:
            said = "; ".join(f"{value} on {few(nodes)}" for value, nodes in by_value.items())
            raise SweepRefused(
                f"the nodes of the cluster differ in {name.removeprefix('providers.')}: {said}; install the same on all"
            )
