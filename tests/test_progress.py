"""Bars and lines: what a loop hands on is untouched, and the log says how far it is."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acr import progress
from acr.progress import Progress, duration


class Clock:
    """Time that passes by a fixed step at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@given(st.lists(st.integers()))
def test_items_are_handed_on_in_their_order(items):
    assert list(Progress(items, "x")) == items
    assert list(Progress(iter(items), "x")) == items


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (12.0, "12 s"),
        (60.0, "1 min 00 s"),
        (250.2, "4 min 10 s"),
        (3599.6, "1 h 00 min"),
        (11100.0, "3 h 05 min"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds, said):
    assert duration(seconds) == said


def test_the_log_has_a_line_every_thirty_seconds_with_note_and_time_left(caplog, monkeypatch):
    monkeypatch.setattr(progress, "time", Clock(10.0))
    loop = Progress(range(10), "training", unit="step")
    with caplog.at_level(logging.INFO):
        for item in loop:
            loop.note = f"loss {item}"
    # a look at the start and one after each step, 10 seconds apart: lines after 3, 6 and 9 steps of 10 seconds each
    assert caplog.messages == [
        "training: step 3 of 10, 1 min 10 s left, loss 2",
        "training: step 6 of 10, 40 s left, loss 5",
        "training: step 9 of 10, 10 s left, loss 8",
    ]


def test_what_was_done_before_counts_for_the_total_and_not_for_the_speed(caplog, monkeypatch):
    monkeypatch.setattr(progress, "time", Clock(30.0))
    with caplog.at_level(logging.INFO):
        list(Progress(iter("ab"), "shard", total=12, initial=10))
    assert caplog.messages == ["shard: image 11 of 12, 30 s left", "shard: image 12 of 12, 0 s left"]


def test_bytes_are_counted_by_their_chunks(caplog, monkeypatch):
    monkeypatch.setattr(progress, "time", Clock(30.0))
    chunks = [bytes(2_000_000), bytes(1_000_000)]
    with caplog.at_level(logging.INFO):
        assert list(Progress(chunks, "voc", total=4_000_000, unit="B", initial=1_000_000, amount=len)) == chunks
    assert caplog.messages == ["voc: 3.0 MB of 4.0 MB, 15 s left", "voc: 4.0 MB of 4.0 MB, 0 s left"]


def test_without_a_total_there_is_no_time_left(caplog, monkeypatch):
    monkeypatch.setattr(progress, "time", Clock(40.0))
    with caplog.at_level(logging.INFO):
        list(Progress(iter("a"), "unpacking", unit="file"))
    assert caplog.messages == ["unpacking: file 1"]


def test_a_quiet_loop_says_nothing(caplog, monkeypatch):
    monkeypatch.setattr(progress, "time", Clock(40.0))
    with caplog.at_level(logging.INFO):
        assert list(Progress("ab", "x", quiet=True)) == ["a", "b"]
    assert not caplog.messages


def test_without_a_terminal_there_is_no_bar(capsys):
    list(Progress(range(3), "x"))
    assert capsys.readouterr() == ("", "")
