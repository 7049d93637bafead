"""Pauses of a trainer: a loop that takes `steps_left` steps at a time meets each of them."""

from __future__ import annotations

import pytest

import popgrad as pg
from fitting import bits, small
from popgrad import optim
from popgrad.train.checkpoints import Writer
from popgrad.train.hooks import Hooks
from popgrad.train.pauses import Several
from popgrad.train.progress import Bar


class Epochs(pg.Callback):
    def on_epoch_end(self, run):
        pass


class Steps(pg.Callback):
    def on_batch_end(self, run):
        pass


class At:
    """A pause at multiples of a number of steps, with a list of where it acted."""

    def __init__(self, every, seconds=None):
        self.every, self.acted = every, []

    def due(self, step, seconds):
        return step > 0 and step % self.every == 0 and step not in self.acted

    def steps_left(self, step):
        return self.every - step % self.every

    def on_pause(self, trainer):
        self.acted.append(trainer.step)


def trainer_of(callbacks=()):
    model, X, y = small()
    trainer = pg.Trainer(model.objective(X, y), optim.Adam(0.01), model.params, epochs=4, batch_size=8, record_every=90)
    return trainer, Hooks(list(callbacks), model, trainer).pauses()


def met(pauses, trainer, steps=24):
    """The steps at which a loop that takes as many steps as it may at a time finds a pause due."""
    step, found = 0, []
    while step < steps:
        if pauses.due(step, 0.0):
            found.append(step)
            trainer.step = step
            pauses.on_pause(trainer)
            assert not pauses.due(step, 0.0)
        left = pauses.steps_left(step)
        assert left is None or left >= 1
        step += 1000 if left is None else left
    return found


@pytest.mark.parametrize(("callback", "steps"), [(Epochs(), range(0, 24, 3)), (Steps(), range(24))])
def test_pauses_of_hooks(callback, steps):
    trainer, (pauses,) = trainer_of([callback])
    assert met(pauses, trainer) == list(steps)
    assert pauses.steps_left(4) == steps.step - 4 % steps.step


def test_pauses_of_checkpoints(tmp_path):
    trainer, _ = trainer_of()
    next(trainer)
    with Writer(pg.Checkpoint(tmp_path, every_seconds=None, every_steps=5), {}, trainer.params, None) as writer:
        assert met(writer, trainer) == [5, 10, 15, 20]
    with Writer(pg.Checkpoint(tmp_path / "a", every_seconds=60), {}, trainer.params, None) as writer:
        assert writer.steps_left(3) is None


def test_several_pauses_are_one(tmp_path):
    trainer, _ = trainer_of()
    parts = [At(4), At(6), Bar(trainer)]
    assert met(Several(parts), trainer) == [4, 6, 8, 12, 16, 18, 20]
    assert [part.acted for part in parts[:2]] == [[4, 8, 12, 16, 20], [6, 12, 18]]
    assert Several([Bar(trainer)]).steps_left(1) is None


def test_a_record_comes_before_a_pause_at_the_same_step():
    trainer, _ = trainer_of()
    records = []
    at = At(1)
    at.on_pause = lambda trainer: (At.on_pause(at, trainer), records.append(len(trainer.history.loss)))[0]
    trainer.pauses = at
    quiet, _ = trainer_of()
    for one, two in zip(trainer, quiet, strict=True):
        assert bits(one) == bits(two)
    assert at.acted == list(range(1, 13))
    assert records == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]  # marks at steps 5 and 9


def test_a_pause_may_stop_the_run():
    trainer, _ = trainer_of()
    at = At(5)
    at.on_pause = lambda trainer: trainer.stop("enough") or At.on_pause(at, trainer)
    trainer.pauses = at
    history = [*trainer][-1]
    assert (trainer.step, history.reason, history.evaluations[-1]) == (5, "enough", 5)
