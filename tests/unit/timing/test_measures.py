"""What is timed where nothing was asked for, what is refused, and which measure decides."""

from __future__ import annotations

import pytest

from w8a8_bench.timing.measures import (
    HOST_LAUNCH,
    MEANINGS,
    REQUESTS,
    TIME_COLD,
    TIME_EVENT,
    TIME_HOST,
    TIME_HOT,
    TIME_KERNEL,
    Timer,
    choose,
    headline,
    part,
)
from w8a8_bench.timing.settings import Settings

ONLY = {"graph": TIME_COLD, "event": TIME_EVENT, "host": TIME_HOST}


def test_a_gpu_is_timed_cold_by_graph_and_a_cpu_by_the_host() -> None:
    assert choose(None, None, cuda=True) == (Timer.GRAPH, (TIME_COLD,))
    assert choose(None, None, cuda=False) == (Timer.HOST, (TIME_HOST,))


@pytest.mark.parametrize("timer", Timer)
def test_each_timer_has_a_measure_of_its_own_on_a_gpu(timer: Timer) -> None:
    assert choose(timer, None, cuda=True) == (timer, (ONLY[timer.value],))
    assert choose(timer, [], cuda=True) == (timer, (ONLY[timer.value],))


@pytest.mark.parametrize(
    ("timer", "requests", "measures"),
    [
        (None, ["cold", "hot"], (TIME_COLD, TIME_HOT)),
        (None, ["hot", "cold"], (TIME_COLD, TIME_HOT)),
        (None, ["cold", "cold"], (TIME_COLD,)),
        (None, ["hot"], (TIME_HOT,)),
        (None, ["kernel"], (TIME_KERNEL,)),
        (None, ["host", "kernel", "hot", "cold"], (TIME_COLD, TIME_HOT, TIME_KERNEL, HOST_LAUNCH)),
        (Timer.EVENT, ["cold"], (TIME_EVENT,)),
        (Timer.EVENT, ["cold", "host"], (TIME_EVENT, HOST_LAUNCH)),
        (Timer.HOST, ["kernel"], (TIME_HOST, TIME_KERNEL)),
        (Timer.HOST, ["host"], (TIME_HOST, HOST_LAUNCH)),
    ],
)
def test_what_was_asked_for_is_taken_in_the_order_of_precedence(timer, requests, measures) -> None:
    assert choose(timer, requests, cuda=True)[1] == measures


@pytest.mark.parametrize("timer", [Timer.GRAPH, Timer.EVENT])
def test_enqueueing_is_never_all_that_is_timed(timer: Timer) -> None:
    # Alone it would be the headline: the blocks would end on it, and it would be judged against the floor of the GEMM.
    assert choose(timer, ["host"], cuda=True)[1] == (ONLY[timer.value], HOST_LAUNCH)
    for one_pass in Settings(timer=timer, measures=choose(timer, ["host", "kernel"], cuda=True)[1]).passes():
        assert one_pass.headline != HOST_LAUNCH


@pytest.mark.parametrize(
    ("timer", "requests", "cuda", "says"),
    [
        (Timer.GRAPH, None, False, "--timer graph needs a GPU"),
        (Timer.EVENT, None, False, "--timer event needs a GPU"),
        (None, ["cold"], False, "--measure cold needs --timer graph"),
        (None, ["hot"], False, "--measure hot needs --timer graph"),
        (None, ["kernel"], False, "--measure kernel needs a GPU"),
        (None, ["host"], False, "--measure host needs a GPU"),
        (Timer.HOST, ["cold"], True, "--measure cold needs --timer graph"),
        (Timer.HOST, ["hot"], True, "--measure hot needs --timer graph"),
        (Timer.EVENT, ["hot"], True, "--measure hot needs --timer graph"),
        (None, ["cold", "nonsense"], True, "--measure 'nonsense': expected cold, hot, kernel, host"),
        (None, ["nonsense"], False, "--measure 'nonsense': expected cold, hot, kernel, host"),
        (None, ["time_cold_l2"], True, "--measure 'time_cold_l2': expected"),
    ],
)
def test_what_a_device_or_a_timer_lacks_is_refused_and_not_replaced(timer, requests, cuda, says) -> None:
    with pytest.raises(ValueError) as caught:
        choose(timer, requests, cuda=cuda)
    assert str(caught.value).startswith(says)
    assert len(str(caught.value).splitlines()) == 1


def test_the_headline_is_the_first_that_is_there() -> None:
    order = (TIME_COLD, TIME_HOT, TIME_EVENT, TIME_HOST, TIME_KERNEL, HOST_LAUNCH)
    assert tuple(MEANINGS) == order
    for index, measure in enumerate(order):
        assert headline(reversed(order[index:])) == measure
    assert headline([]) is None
    assert headline([part(TIME_COLD, "quant"), part(TIME_COLD, "gemm")]) is None, "a part is no headline"


def test_every_request_is_a_measure_with_a_meaning() -> None:
    for request in REQUESTS:
        assert all(measure in MEANINGS for measure in choose(None, [request], cuda=True)[1])
