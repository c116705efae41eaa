"""Progress in a terminal and in a log, by a clock that the tests set."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
import tqdm.std

from kpp_pyro.progress import Progress, print_above_bars, show_progress


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tqdm.std, "time", clock)
    return clock


@pytest.fixture
def log(capsys):
    """What has been written to standard error, which is no terminal."""
    return lambda: capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def counts(text: str) -> list[int]:
    """The count on every line; no line may be drawn over."""
    assert "\r" not in text and (not text or text.endswith("\n"))
    return [int(re.search(r" (\d+)/", line)[1]) for line in text.splitlines()]


def test_a_log_gets_a_line_every_half_minute_and_a_last_one(clock, log):
    for _ in show_progress(range(100), "reading", unit="image"):
        clock.seconds += 1
    text = log()
    assert counts(text) == [30, 60, 90, 100]
    assert text.splitlines()[0] == "reading:  30% 30/100 [00:30<01:10,  1.00image/s]"


def test_pauses_count_towards_the_half_minute(clock, log):
    with show_progress(label="training", total=20, unit="step", pause_every=1) as bar:
        for _ in range(20):
            clock.seconds += 1
            bar.update()
            with bar.pause():
                clock.seconds += 9
    assert counts(log()) == [4, 7, 10, 13, 16, 19, 20]


def test_a_last_line_is_not_repeated_and_neither_notes_nor_labels_print_lines(clock, capsys):
    with show_progress(label="training", total=60, unit="step") as bar:
        for _ in range(60):
            clock.seconds += 1
            bar.update()
            bar.set_postfix_str("ELBO -3")
        bar.write("step 60")
    output, text = capsys.readouterr()
    assert counts(text) == [30, 60] and text.count("ELBO -3]\n") == 2
    assert output == "step 60\n"


@pytest.mark.parametrize(("seconds", "lines"), [(20, []), (50, [30, 50])])
def test_a_transient_loop_prints_lines_only_if_it_takes_long(clock, log, seconds, lines):
    for _ in show_progress(range(seconds), "looking", leave=False):
        clock.seconds += 1
    assert counts(log()) == lines


def test_a_loop_that_fails_leaves_a_line_that_says_where(clock, log):
    with pytest.raises(ValueError, match="broken"), show_progress(total=9) as bar:
        bar.update(4)
        raise ValueError("broken")
    assert counts(log()) == [4]


def test_a_terminal_gets_one_bar_that_is_drawn_over(clock):
    with contextlib.redirect_stderr(Terminal()) as terminal:
        for _ in show_progress(range(100), "reading"):
            clock.seconds += 1
    text = terminal.getvalue()
    assert text.count("\r") > 50 and text.count("\n") == 1


def test_nothing_is_shown_of_a_disabled_loop(log):
    with show_progress(total=3, pause_every=1, disable=True) as bar:
        bar.update()
        with bar.pause():
            pass
    assert list(show_progress(iter("ab"), disable=True)) == ["a", "b"] and not log()


def test_notes_are_one_line(log):
    print_above_bars("a file\nof two lines")
    assert log() == "a file of two lines\n"


def seconds_left(bar: Progress) -> float:
    shown = bar.format_dict
    return (shown["total"] - shown["n"]) / shown["rate"]


@pytest.mark.parametrize("begun", [0, 10, 12])
def test_the_expected_end_does_not_move_with_evaluations(clock, begun):
    """Steps of 2 seconds, a pause of 30 after every fifth and the last: the end is known from the first pause on."""
    total, every = 48, 5
    pauses = [step for step in range(begun + 1, total + 1) if step % every == 0 or step == total]
    end = clock.seconds + 2 * (total - begun) + 30 * len(pauses)
    with contextlib.redirect_stderr(Terminal()), show_progress(total=total, initial=begun, pause_every=every) as bar:
        for step in range(begun + 1, total + 1):
            clock.seconds += 2
            bar.update()
            if begun < pauses[0] < step < total:
                assert clock.seconds + seconds_left(bar) == pytest.approx(end)
            if step in pauses:
                with bar.pause():
                    clock.seconds += 30
                if step < total:
                    assert clock.seconds + seconds_left(bar) == pytest.approx(end)
    assert clock.seconds == end


def test_the_expected_end_is_steady_where_steps_take_turns_in_being_slow(clock):
    """Rates differ by a factor of three from step to step; after 200 steps, the end moves by less than 4 %."""
    with contextlib.redirect_stderr(Terminal()), show_progress(total=1000) as bar:
        ends = []
        for step in range(1, 1000):
            clock.seconds += 0.5 if step % 2 else 1.5
            bar.update()
            ends.append(clock.seconds + seconds_left(bar) - 1000)
    assert all(abs(end - 1000) < 40 for end in ends[200:])
