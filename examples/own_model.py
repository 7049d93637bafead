"""A model of your own: a damped oscillator, fitted to measurements by a gradient method and by a search."""

import numpy as np

import popgrad as pg


class Oscillator(pg.Model):
    """x(t) = amplitude exp(-damping t) cos(frequency t). popgrad sees its parameters as one flat vector."""

    layout = pg.Layout({"amplitude": (1,), "damping": (1,), "frequency": (1,)})

    def __init__(self) -> None:
        self._params = np.array([1.0, 0.1, 1.5])

    @property
    def params(self):
        """All parameters, (3,)."""
        return self._params

    @params.setter
    def params(self, values):
        self._params[:] = values

    def objective(self, X, y, sample_weight=None, *, metric="loss", operation="Oscillator.objective"):
        """Times X and positions y, both (N,)."""
        return SquaredErrors(np.asarray(X, float), np.asarray(y, float))


class SquaredErrors(pg.Objective):
    """The mean squared error at the times t. `values` is enough for searches; gradient methods need `gradient` too."""

    layout = Oscillator.layout
    dtype = np.dtype("float64")

    def __init__(self, t, x):
        self.t, self.x, self.samples = t, x, len(t)

    def _batch(self, batch):
        rows = slice(None) if batch.rows is None else batch.rows  # None stands for all samples
        return self.t[rows], self.x[rows]

    def values(self, population, batch):
        """Errors (P,) of candidates (P, 3)."""
        t, x = self._batch(batch)
        amplitude, damping, frequency = (column[:, None] for column in population.T)
        return ((amplitude * np.exp(-damping * t) * np.cos(frequency * t) - x) ** 2).mean(axis=1)

    def gradient(self, w, batch, out):
        """The error at w (3,); its gradient goes to `out`."""
        t, x = self._batch(batch)
        fall, angle = np.exp(-w[1] * t), w[2] * t
        error = w[0] * fall * np.cos(angle) - x
        slopes = fall * np.cos(angle), -t * w[0] * fall * np.cos(angle), -t * w[0] * fall * np.sin(angle)
        out[:] = [2 * (error * slope).mean() for slope in slopes]
        return float((error**2).mean())


t = np.linspace(0, 10, 200)
x = 2 * np.exp(-0.3 * t) * np.cos(1.8 * t) + 0.02 * np.random.default_rng(0).normal(size=200)
for method in (pg.optim.Adam(0.02), pg.search.PSO(popsize=32)):
    model = Oscillator()
    history = pg.fit(model, t, x, optimizer=method, batch_size=50, budget=pg.Budget(forwards=1e6))
    amplitude, damping, frequency = model.params
    print(f"{method.label}: amplitude {amplitude:.2f}, damping {damping:.2f}, frequency {frequency:.2f}")
    print(f"mean squared error {history.loss[history.best]:.5f}")
