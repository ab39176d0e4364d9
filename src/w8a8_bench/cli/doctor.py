"""`doctor`: this machine's device and versions, and for every kernel whether it runs here or why not."""

from __future__ import annotations

import argparse

from w8a8_bench.cli.errors import EXIT_COMPLETE, UsageError
from w8a8_bench.device import Device
from w8a8_bench.formats import W8A8_FORMATS, Format
from w8a8_bench.names import KernelName
from w8a8_bench.problem import GemmShape
from w8a8_bench.providers import registry
from w8a8_bench.sweep.drive import SweepRefused, Worker, WorkerLost

SHAPE = GemmShape(m=128, n=4096, k=4096)
"""What the kernels are asked about: a shape that no limit of sizes excludes."""


def run(args: argparse.Namespace) -> int:
    try:
        with Worker(args.device) as worker:
            device, environment = worker.hello()
    except (SweepRefused, WorkerLost) as error:
        raise UsageError(str(error)) from None
    print(f"{'device':<14} {device.name} ({device.torch_name}), {device.available_bytes / 2**30:.1f} GiB free")
    if device.capability:
        major, minor = device.capability
        print(
            f"{'capability':<14} {major}.{minor}, {device.sm_count} SMs, {(device.l2_bytes or 0) / 2**20:.0f} MiB of L2"
        )
    for name, value in environment.items():
        print(f"{name:<14} {value}")
    print(f"\nkernels, asked about {SHAPE} in their default scheme:")
    for text in registry.names(tuple(Format), on_request=True):
        print(f"  {text:<48} {_answer(text, device)}")
    return EXIT_COMPLETE


def _answer(text: str, device: Device) -> str:
    name = KernelName.parse(text)
    fmt = next(fmt for fmt in W8A8_FORMATS if name.serves(fmt))
    support = registry.get(text).supports(name.problem(SHAPE, fmt, name.default_scheme), device)
    if not support:
        return f"no: {support.reason}"
    if name.format is Format.FP8 and not device.is_cuda:
        return "yes, emulated: this CPU has no FP8 arithmetic"
    return "yes"
