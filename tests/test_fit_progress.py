"""The progress bar of pg.fit: when it is shown, what it shows, and what it leaves alone."""

from __future__ import annotations

import io
import math
import re
import sys

import pytest

import popgrad as pg
from fitting import bits, small
from popgrad import optim, search
from popgrad.train import progress


class Terminal(io.StringIO):
    """Text that was written to a terminal."""

    def isatty(self):
        return True

    def lines(self):
        """What was on each line, one after the other."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.fixture
def terminal(monkeypatch):
    """Standard error, as a terminal of 120 columns."""
    made = Terminal()
    monkeypatch.setattr(sys.modules[__name__], "SCREEN", made)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return made


SCREEN = None  # standard error during `fit`; pytest replaces sys.stderr after a fixture has set it


@pytest.fixture
def eager(monkeypatch):
    """A bar that is there at once and updated at every step."""
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    monkeypatch.setattr(progress, "_LEAST", 0.0)
    monkeypatch.setattr(progress, "_SHARE", math.inf)


def fit(**chosen):
    model, X, y = small()
    before, sys.stderr = sys.stderr, SCREEN
    try:
        return pg.fit(model, X, y, **{"optimizer": optim.Adam(0.01), "batch_size": 8, "epochs": 4, **chosen})
    finally:
        left, sys.stderr = sys.stderr, before
        assert left is SCREEN


def test_a_terminal_shows_epochs_values_speed_and_what_is_left(terminal, eager):
    history = fit(validation=0.2)
    shown = terminal.lines()
    assert any(re.search(r"epoch 2\.0/4 .* samples/s  0:00 left$", line) for line in shown)
    values = (history.loss[-1], history.metric[-1], history.validation_loss[-1], history.validation_metric[-1])
    text = "loss {:.3g} error_rate {:.3g}  val {:.3g} {:.3g}".format(*values)
    assert re.search(rf"epoch 4\.0/4  {re.escape(text)}  \S+ samples/s$", shown[-1])
    assert "━" in shown[-1]


def test_a_search_shows_forwards(terminal, eager):
    fit(optimizer=search.PSO(12), epochs=None, budget=pg.Budget(forwards=2880), batch_size=None)
    assert re.search(r"1\.2k/2\.88k forwards", "\n".join(terminal.lines()))
    assert re.search(r"2\.88k/2\.88k forwards  loss \S+ error_rate \S+  \S+ samples/s$", terminal.lines()[-1])


@pytest.mark.parametrize("limit", [{"evaluations": 50}, {"seconds": 0.05}])
def test_other_budgets(limit, terminal, eager):
    fit(epochs=None, budget=pg.Budget(**limit))
    assert re.search(r"\w forwards  loss", terminal.lines()[-1])


def test_a_narrow_terminal_has_the_text_alone(terminal, eager, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    fit()
    assert terminal.lines()[-1].startswith("epoch 4.0/4  loss ")


@pytest.mark.parametrize(("shown", "tty"), [(None, False), (False, True), (False, False)])
def test_silence(shown, tty, terminal, eager, monkeypatch):
    monkeypatch.setattr(terminal, "isatty", lambda: tty)
    pauses = []

    class Look(pg.Callback):
        def on_record(self, run):
            pauses.append(run.trainer.pauses)

    fit(progress=shown, callbacks=Look())
    assert terminal.getvalue() == ""
    assert set(pauses) == {None}


def test_short_runs_show_nothing_unless_asked(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_FIRST", 1000.0)
    fit()
    assert terminal.getvalue() == ""
    fit(progress=True)
    assert len(set(terminal.lines())) == 1
    assert "epoch 4.0/4" in terminal.lines()[0]


def test_without_a_terminal_only_the_end_is_shown_if_asked(terminal, eager, monkeypatch):
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    fit(progress=True)
    assert len(terminal.lines()) == 1
    assert "epoch 4.0/4" in terminal.lines()[0]


@pytest.mark.parametrize("method", [optim.Adam(0.01), search.PSO(12)], ids=lambda method: method.described())
def test_a_bar_changes_no_bit(method, terminal, eager):
    chosen = {"optimizer": method, "epochs": 30, "validation": 0.2}
    assert bits(fit(**chosen)) == bits(fit(**chosen, progress=False))


def test_prints_come_through_above_the_bar(terminal, eager, monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)

    def talk(model, history):
        if len(history.loss) == 2:
            print("a print")
            print("an error", file=sys.stderr)

    fit(callbacks=talk)
    shown = terminal.lines()
    for text in ("a print", "an error"):
        assert [line for line in [*shown, *out.lines()] if text in line]
        assert not [line for line in shown if text in line and "epoch" in line]
    assert sys.stdout is out


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_left_as_it_was_after_an_exception(error, terminal, eager):
    """`fit` above checks that standard error is."""

    def end(model, history):
        if len(history.loss) == 3:
            raise error

    with pytest.raises(error):
        fit(callbacks=end)
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1  # the cursor
    fit()  # and the next bar is shown
    assert terminal.getvalue().count("\x1b[?25l") == 2


def test_a_run_inside_a_run_is_silent(terminal, eager):
    model, X, y = small()
    inner = []

    def again(_, history):
        inner.append(pg.fit(model, X, y, optimizer=optim.SGD(), epochs=50))

    fit(epochs=2, callbacks=again)
    assert len(inner) == 3
    assert not [line for line in terminal.lines() if "/50" in line]
    assert terminal.getvalue().count("\x1b[?25l") == 1


def test_updates_are_a_tenth_of_a_second_apart(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_SHARE", math.inf)
    model, X, y = small()
    trainer = pg.Trainer(model.objective(X, y), optim.SGD(), model.params, epochs=1)
    next(trainer)
    with progress.Bar(trainer) as bar:
        assert not bar.due(1, 0.49)
        assert bar.due(1, 0.5)
        bar.on_pause(trainer)
        now = trainer.used.seconds
        assert not bar.due(2, now + 0.09)
        assert bar.due(2, now + 0.11)


def test_slow_updates_are_rare(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_SHARE", 1e-9)
    model, X, y = small()
    trainer = pg.Trainer(model.objective(X, y), optim.SGD(), model.params, epochs=1)
    next(trainer)
    with progress.Bar(trainer) as bar:
        bar.on_pause(trainer)
        assert not bar.due(2, 1000.0)


def test_progress_is_true_false_or_none():
    with pytest.raises(pg.InputError, match=r"\[fit\] progress must be True, False or None, got 1"):
        fit(progress=1)


def test_samples_of_smaller_batches_are_counted_as_they_are():
    model, X, y = small()
    trainer = pg.Trainer(model.objective(X, y), optim.SGD(), model.params, epochs=2, batch_size=8, record_every=1)
    assert [progress.samples(trainer) for _ in trainer] == [0, 8, 16, 20, 28, 36, 40]
