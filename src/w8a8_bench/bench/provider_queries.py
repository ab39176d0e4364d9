"""What a worker is asked about kernels without measuring any: what is refused, and why."""

from __future__ import annotations

from w8a8_bench.environment.device import Device
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import registry
from w8a8_bench.providers.contract import support_of
from w8a8_bench.providers.provider import pass_interrupts


def answer(kernel: str, shape: GemmShape, device: Device) -> str:
    """Whether `kernel` takes `shape` on `device` in its default scheme: yes, or no and why not."""
    name = KernelName.parse(kernel)
    fmt = next(fmt for fmt in W8A8_FORMATS if name.serves(fmt))
    try:
        support = support_of(registry.get(kernel), name.problem(shape, fmt, name.default_scheme), device)
    except BaseException as error:  # a third party's kernel; its fault is what the user came for
        pass_interrupts(error)
        return f"no: {registry.provider_of(kernel).said(error)}"
    if not support:
        return f"no: {support.reason}"
    if name.format is Format.FP8 and not device.is_cuda:
        return "yes, emulated: this CPU has no FP8 arithmetic"
    return "yes"
