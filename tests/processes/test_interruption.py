"""What must not be left half done ends first; a second interruption does not wait."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from slmquant.interruption import finished_first, held_back, install, recognised, stop_if_interrupted


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    install()
    yield
    install()  # forgets what was received
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_block_ends_before_the_interruption() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with finished_first():
            signal.raise_signal(signal.SIGINT)
            steps.append("written")
        steps.append("after")
    assert steps == ["written"]


def test_a_second_interruption_ends_it_at_once() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), finished_first():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        steps.append("written")
    assert not steps


def test_an_interruption_that_a_library_hides_is_found() -> None:
    with pytest.raises(KeyboardInterrupt), recognised():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as hidden:
            raise ValueError("cannot serialize") from hidden
    with pytest.raises(KeyboardInterrupt), finished_first():
        raise AssertionError("nothing is stored after an interruption")
    with pytest.raises(KeyboardInterrupt):
        stop_if_interrupted()


def test_errors_are_errors_without_one() -> None:
    with pytest.raises(ValueError, match="none"), recognised():
        raise ValueError("none")


def test_its_error_is_not_lost() -> None:
    with pytest.raises(ValueError, match="full"), finished_first():
        raise ValueError("the disk is full")


def test_a_signal_that_is_held_back_arrives_later() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with held_back():
            signal.raise_signal(signal.SIGINT)
            steps.append("started")
        steps.append("after")
    assert steps == ["started"]
