"""Schedules: the values of a hyper-parameter over the steps of a run.

Pass a schedule for any hyper-parameter of an optimizer that takes one::

    pg.optim.AdamW(pg.schedules.Warmup(pg.schedules.Cosine(1e-3, steps=900), steps=100), weight_decay=0.05)

A schedule is frozen data: it can be pickled, compared and printed, and it keeps no position, so that a resumed run
continues it. It is a function of the step t = 1, 2, ...; s = t - 1 steps are done before step t. Schedules count steps,
not epochs, since they do not know the data; `steps_of` converts epochs. A function ``t -> float`` of your own is a
schedule too; a native loop calls it once per step.
"""

from popgrad.schedules import fixed, reacting
from popgrad.schedules._base import Schedule, at, steps_of
from popgrad.schedules.fixed import *  # noqa: F403
from popgrad.schedules.reacting import *  # noqa: F403

__all__ = ["Schedule", "at", "steps_of"]
__all__ += fixed.__all__
__all__ += reacting.__all__
