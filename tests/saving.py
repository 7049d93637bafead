"""What the tests of checkpoints share: runs that are killed and continued."""

from __future__ import annotations

from pathlib import Path

import pytest

import popgrad as pg
from fitting import small
from popgrad import optim


class Killed(BaseException):
    """Ends a run as a kill does: nothing is written any more."""


class Kill(pg.Callback):
    """Kills a run after a number of steps."""

    def __init__(self, step):
        self.step = step

    def on_batch_end(self, run):
        if run.step == self.step:
            raise Killed


def steps_of(folder):
    return [int(path.stem.removeprefix("step-")) for path in sorted(Path(folder).glob("step-*.safetensors"))]


def run(folder=None, *, kill=None, resume=True, model=None, samples=40, every_steps=3, keep=3, **chosen):
    """(history, model) of a run of about 50 steps, with checkpoints in a folder; killed after a step."""
    made, X, y = small(samples=samples, dropout=0.2)
    model = made if model is None else model
    arguments = {"optimizer": optim.Adam(0.01), "epochs": 5, "batch_size": 4, "validation": 0.2, "seed": 3} | chosen
    if folder is not None:
        arguments["checkpoint"] = pg.Checkpoint(folder, every_seconds=None, every_steps=every_steps, keep=keep)
        arguments["resume"] = folder if resume else None
    if kill is not None:
        arguments["callbacks"] = [Kill(kill)]
        with pytest.raises(Killed):
            pg.fit(model, X, y, **arguments)
        return None
    return pg.fit(model, X, y, **arguments), model
