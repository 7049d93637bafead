"""precision="bfloat16": what is rounded and what is not, ranks that are settled in float32, and the way back."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import popgrad as pg
from popgrad import _core
from popgrad.models.mlp import ACTIVATIONS
from popgrad.models.rescore import PROBES, settle

here = pytest.mark.skipif(_core.bfloat16() is None, reason=f"{_core.isa()} has no products of bfloat16")


def to_bfloat16(x):
    """float32 numbers rounded to the nearest bfloat16, ties to even; NaN stays NaN."""
    x = np.asarray(x, np.float32)
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(x), x, rounded)


def weights_rounded(model, population):
    """A population whose weights, not its biases, are bfloat16."""
    out, at = population.copy(), 0
    for inputs, outputs in zip(model.sizes[:-1], model.sizes[1:], strict=True):
        out[:, at : at + inputs * outputs] = to_bfloat16(out[:, at : at + inputs * outputs])
        at += (inputs + 1) * outputs
    return out


def problem(sizes, activation="tanh", loss="cross_entropy", members=5, samples=70, seed=0):
    random = np.random.default_rng(seed)
    model = pg.MLP(sizes, activation, loss)
    population = (model.params + 0.1 * random.normal(size=(members, len(model.params)))).astype(np.float32)
    X = random.normal(size=(samples, sizes[0])).astype(np.float32)
    y = (
        random.integers(sizes[-1], size=samples)
        if loss == "cross_entropy"
        else random.normal(size=(samples, sizes[-1]))
    )
    return model, population, X, y


@here
class TestValues:
    @pytest.mark.parametrize("samples", [1, 15, 16, 17, 63, 64, 65, 1024, 1025, 2100])
    @pytest.mark.parametrize("inputs", [1, 2, 7, 31, 32, 33, 64, 1100])
    def test_one_layer_is_that_of_the_rounded_numbers(self, inputs, samples):
        model, population, X, y = problem([inputs, 3], samples=samples)
        half = model.evaluate(population, X, y, precision="bfloat16")
        expected = model.evaluate(weights_rounded(model, population), to_bfloat16(X), y)
        np.testing.assert_allclose(half, expected, rtol=2e-6)
        if inputs > 2 and samples > 1:
            assert not np.allclose(half, model.evaluate(population, X, y), rtol=2e-6)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("sizes", [[7, 5, 3], [64, 32, 10], [3, 33, 17, 4], [40, 1, 2]], ids=str)
    def test_hidden_layers_pass_on_rounded_numbers(self, sizes, activation):
        model, population, X, y = problem(sizes, activation, "mse", samples=300)
        rounded = weights_rounded(model, population)
        expected = []
        for row in rounded:
            model.params, a = row, to_bfloat16(X)
            layers = list(model.views().values())
            for k in range(0, len(layers), 2):
                z = (a.astype(np.float64) @ layers[k].T.astype(np.float64) + layers[k + 1]).astype(np.float32)
                a = z if k + 2 == len(layers) else to_bfloat16(activation_of(activation, z))
            expected.append(np.mean((a - y) ** 2))
        half = model.evaluate(population, X, y, precision="bfloat16")
        # A sum may be rounded to the neighbor of what it is here, of one in some hundred hidden numbers.
        np.testing.assert_allclose(half, expected, rtol=1e-4)
        if activation != "step":
            error = np.abs(half - expected).mean()
            assert error < np.abs(model.evaluate(population, X, y) - expected).mean() / 3

    @pytest.mark.parametrize("metric", ["error_rate", "balanced_error", "f1_macro", "auc", lambda z, y: z[:, 0, 0]])
    def test_every_metric(self, metric):
        model, population, X, y = problem([9, 3], samples=200)
        half = model.evaluate(population, X, y, metric, precision="bfloat16")
        exact = model.evaluate(weights_rounded(model, population), to_bfloat16(X), y, metric)
        np.testing.assert_allclose(half, exact, rtol=1e-5, atol=1e-7)

    def test_weights_samples_and_coarse_weights(self):
        model, population, X, y = problem([9, 3], samples=200)
        random = np.random.default_rng(1)
        weight, rows = random.uniform(size=200), random.integers(200, size=77)
        for options in ({"sample_weight": weight}, {"samples": rows}, {"samples": rows, "sample_weight": weight}):
            half = model.evaluate(population, X, y, precision="bfloat16", **options)
            exact = model.evaluate(weights_rounded(model, population), to_bfloat16(X), y, **options)
            np.testing.assert_allclose(half, exact, rtol=2e-6)
        half = model.evaluate(population, X, y, precision="bfloat16", weights="binary")
        exact = weights_rounded(model, model.quantized(population, "binary"))
        np.testing.assert_allclose(half, model.evaluate(exact, to_bfloat16(X), y), rtol=2e-6)

    @pytest.mark.parametrize("antithetic", [True, False])
    def test_members_that_are_not_stored(self, antithetic):
        model, _, X, y = problem([9, 6, 3], samples=200)
        members = pg.Perturbations(model.params, 0.1, 34, 5, antithetic)
        half = model.evaluate(members, X, y, precision="bfloat16")
        assert np.array_equal(half, model.evaluate(members.rows(0, 34), X, y, precision="bfloat16"))
        assert not np.array_equal(half, model.evaluate(members, X, y))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38])
    def test_a_broken_candidate_is_infinitely_bad_and_leaves_the_others_alone(self, bad):
        model, population, X, y = problem([5, 4, 3], "identity", "mse")
        before = model.evaluate(population, X, y, precision="bfloat16")
        population[2, ::2] = bad
        after = model.evaluate(population, X, y, precision="bfloat16")
        assert after[2] == np.inf
        assert np.array_equal(np.delete(after, 2), np.delete(before, 2))

    def test_bits_depend_neither_on_threads_nor_on_parts(self):
        model, population, X, y = problem([17, 12, 6], members=40, samples=2500)
        members = pg.Perturbations(model.params, 0.1, 40, 5)
        before = pg.get_num_threads()
        try:
            found = []
            for threads in (1, 2, 3, 8):
                pg.set_num_threads(threads)
                values = [model.evaluate(p, X, y, precision="bfloat16") for p in (population, members)]
                parts = [model.evaluate(population[k::7], X, y, precision="bfloat16") for k in range(7)]
                found.append((values, parts))
        finally:
            pg.set_num_threads(before)
        for values, parts in found:
            assert np.array_equal(values, found[0][0])
            assert all(np.array_equal(part, values[0][k::7]) for k, part in enumerate(parts))

    def test_arguments_stay_as_they_are(self):
        model, population, X, y = problem([9, 6, 3])
        kept = population.copy(), X.copy(), y.copy(), model.params.copy()
        model.evaluate(population, X, y, precision="bfloat16", rescore=True)
        assert all(np.array_equal(a, b) for a, b in zip(kept, (population, X, y, model.params), strict=True))


def activation_of(name, z):
    """The library's own activation, of a (rows, columns) array."""
    one = pg.MLP([z.shape[1], z.shape[1], z.shape[1]], name, "mse")
    one.params[:] = 0
    for name_, view in one.views().items():
        if name_.endswith("weight"):
            np.fill_diagonal(view, 1)
    return one.forward(z)


@here
class TestRescore:
    @pytest.mark.parametrize("spread", [0.003, 0.1, 1.0])
    @pytest.mark.parametrize("metric", ["loss", "error_rate", "f1_macro"])
    def test_ranks_are_those_of_float32(self, metric, spread):
        model, population, X, y = problem([20, 16, 4], members=300, samples=200)
        population = (model.params + spread / 0.1 * (population - model.params)).astype(np.float32)
        exact = model.evaluate(population, X, y, metric)
        half = model.evaluate(population, X, y, metric, "bfloat16")
        settled = model.evaluate(population, X, y, metric, "bfloat16", rescore=True)
        assert np.array_equal(np.argsort(settled, kind="stable"), np.argsort(exact, kind="stable"))
        assert not np.array_equal(np.argsort(half, kind="stable"), np.argsort(exact, kind="stable"))

    @pytest.mark.parametrize("best", [1, 10, 300, 999])
    def test_the_best_are_those_of_float32(self, best):
        model, population, X, y = problem([20, 16, 4], members=300, samples=200)
        exact = model.evaluate(population, X, y)
        settled = model.evaluate(population, X, y, precision="bfloat16", rescore=best)
        assert np.array_equal(np.argsort(settled)[:best], np.argsort(exact)[:best])
        if best <= 10:
            assert (settled == exact).mean() < 0.5  # and few were evaluated for that

    def test_members_that_are_not_stored_and_of_another_layout(self):
        model, population, X, y = problem([20, 16, 4], members=60)
        members = pg.Perturbations(model.params, 0.1, 60, 5)
        for candidates in (members, np.asfortranarray(population), population.astype(np.float64)):
            exact = model.evaluate(candidates, X, y)
            settled = model.evaluate(candidates, X, y, precision="bfloat16", rescore=True, memory_limit=10_000)
            assert np.array_equal(np.argsort(settled), np.argsort(exact))

    def test_broken_candidates(self):
        model, population, X, y = problem([20, 16, 4], members=60)
        population[::3] = np.nan
        settled = model.evaluate(population, X, y, precision="bfloat16", rescore=True)
        assert np.array_equal(settled == np.inf, np.arange(60) % 3 == 0)
        assert np.array_equal(np.argsort(settled)[:40], np.argsort(model.evaluate(population, X, y))[:40])


class TestSettle:
    """The rule itself, on numbers that need no such processor."""

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(
        members=st.integers(1, 400),
        error=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
        grows=st.booleans(),
        ties=st.booleans(),
        broken=st.booleans(),
        best=st.none() | st.integers(1, 500),
        seed=st.integers(0, 2**32),
    )
    # The worst of the probes are infinite, so no error was seen as large as those of the worst candidates.
    @example(members=347, error=1e-2, grows=True, ties=False, broken=True, best=None, seed=347)
    @example(members=399, error=1e-2, grows=True, ties=False, broken=True, best=None, seed=2220495577)
    def test_ranks_become_exact(self, members, error, grows, ties, broken, best, seed):
        random = np.random.default_rng(seed)
        exact = random.exponential(size=members) ** (3 if grows else 1)
        if ties:
            exact = np.round(exact, 1)
        # None is twice as large as another, or twice as large a share: what the rule assumes.
        noise = random.uniform(0.6, 1, members) * random.choice([-1, 1], members)
        noise *= min(error, 0.01) * exact if grows else error
        coarse = exact + noise
        if broken:
            rows = random.integers(members, size=3)
            coarse[rows] = np.inf
            if best is not None:  # then they are not asked for
                exact[rows] = np.inf
            exact[random.integers(members, size=3)] = np.inf
        asked = []

        def ask(these):
            assert len(these)
            asked.extend(these.tolist())
            return exact[these]

        settled = settle(coarse, ask, best)
        assert len(set(asked)) == len(asked)  # none twice
        count = members if best is None else min(best, members)
        if broken and not np.isin(np.flatnonzero(np.isinf(exact) & np.isfinite(coarse)), asked).all():
            return  # finite with a small error, infinite in truth: no rule can see that
        order = np.argsort(settled, kind="stable")
        np.testing.assert_array_equal(exact[order[:count]], np.sort(exact)[:count])

    def test_few_are_asked_for_where_ranks_are_clear(self):
        asked = []

        def ask(these):
            asked.extend(these)
            return these.astype(float)

        settle(np.arange(1000) + 0.1, ask)
        assert len(asked) == PROBES
        settle(np.arange(1000.0) / 10, lambda these: asked.extend(these) or these / 10 + 1.0, best=5)
        assert len(asked) < 150

    def test_what_is_not_finite_is_none_of_the_best(self):
        coarse = np.where(np.arange(1000) % 2, np.inf, np.arange(1000.0))
        asked = []
        settle(coarse, lambda these: asked.extend(these) or coarse[these], best=5)
        assert len(asked) <= 2 * PROBES

    def test_the_coarse_values_are_not_changed(self):
        coarse = np.array([1.0, 1.0, 2.0])
        settle(coarse, lambda these: np.zeros(len(these)))
        assert coarse.tolist() == [1, 1, 2]


class TestErrors:
    def test_of_the_arguments(self):
        model, population, X, y = problem([4, 3])
        wide = pg.MLP([4, 3], dtype="float64")
        wrong = {
            "unknown precision ''": (model, {"precision": ""}),
            "unknown precision 'bfloat'. Did you mean 'bfloat16'": (model, {"precision": "bfloat"}),
            "'bfloat16' does not fit a model of dtype float64": (wide, {"precision": "bfloat16"}),
            "'float32' does not fit a model of dtype float64": (wide, {"precision": "float32"}),
            "rescore=True needs precision='bfloat16', got 'float32'": (model, {"rescore": True}),
            "rescore must be a whole number >= 1, got 0": (model, {"rescore": 0, "precision": "bfloat16"}),
            "rescore must be a whole number >= 1, got 'yes'": (model, {"rescore": "yes", "precision": "bfloat16"}),
        }
        for message, (of, options) in wrong.items():
            with pytest.raises(ValueError, match=message):
                of.evaluate(population, X, y, **options)

    def test_names_may_be_types_of_numpy(self):
        model, population, X, y = problem([4, 3])
        assert np.array_equal(model.evaluate(population, X, y, precision=np.float32), model.evaluate(population, X, y))
        with pytest.raises(ValueError, match="'float64' does not fit a model of dtype float32"):
            model.evaluate(population, X, y, precision=np.float64)

    @here
    def test_noise_of_low_rank_is_float32_with_a_note(self):
        model, _, X, y = problem([9, 6, 3])
        members = pg.Perturbations(model.params, 0.1, 34, 5, rank=1, layout=model.layout)
        with pytest.warns(UserWarning, match="noise of low rank is evaluated in float32"):
            half = model.evaluate(members, X, y, precision="bfloat16")
        assert np.array_equal(half, model.evaluate(members, X, y))
        with pytest.raises(ValueError, match="X must have 9 columns"):  # and no note before an error
            model.evaluate(members, X[:, 1:], y, precision="bfloat16")


CHILD = """
import sys, warnings
import numpy as np
import popgrad as pg
from popgrad import _core
model = pg.MLP([9, 6, 3])
random = np.random.default_rng(0)
X, y = random.normal(size=(50, 9)), random.integers(3, size=50)
population = random.normal(size=(8, len(model.params)))
with warnings.catch_warnings(record=True) as notes:
    warnings.simplefilter("always")
    half = model.evaluate(population, X, y, precision="bfloat16")
exact = model.evaluate(population, X, y)
print(_core.isa(), _core.bfloat16(), np.array_equal(half, exact))
print([str(note.message) for note in notes], all(note.filename == "<string>" for note in notes))
"""


@pytest.mark.parametrize("isa", [name for name, runs in _core.isas().items() if runs])
def test_without_such_a_processor_it_is_float32_with_a_note(isa):
    run = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "POPGRAD_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = run.stdout.splitlines()
    if isa in ("baseline", "avx2", "avx512"):
        assert first == f"{isa} None True"
        why = f"the instruction set in use, {isa}, has no products of bfloat16: evaluated in float32"
        assert second == str([f"[MLP.evaluate] precision='bfloat16': {why}"]) + " True"
    else:
        assert first == f"avx512 {isa} False"
        assert second == "[] True"
