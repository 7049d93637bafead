"""pg.Perturbations: the same as the stored members, whatever the rank, the threads and the chunks; and its noise.

The noise is keyed by numbers written here, so these tests give the same result each time. A statistic may be five of
its standard errors off: what one in two million fair generators would exceed.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from scipy import stats

import popgrad as pg
from popgrad.models.mlp import ACTIVATIONS

BOUND = 5.0  # standard errors
DTYPES = ("float32", "float64")
SIZES = [7, 5, 3]

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_rank = pytest.mark.parametrize("rank", [None, 1, 3])
is_antithetic = pytest.mark.parametrize("antithetic", [True, False], ids=["antithetic", "independent"])


def around(model, popsize=34, sigma=0.3, seed=5, antithetic=True, rank=None):
    return pg.Perturbations(model.params, sigma, popsize, seed, antithetic, rank, model.layout)


def noise_of(members, n, seed=1, dtype=np.float32):
    """(members, n) normal numbers: a population around zero, of width one."""
    return pg.Perturbations(np.zeros(n, dtype), 1.0, members, seed, antithetic=False).rows(0, members)


def samples_for(model, count=200, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, model.sizes[0])), random.integers(0, model.sizes[-1], count)


def with_threads(work):
    """What `work` returns with 1, 2, 3 and 8 threads."""
    before = pg.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            pg.set_num_threads(threads)
            results.append(work())
    finally:
        pg.set_num_threads(before)
    return results


class TestEvaluate:
    @every_dtype
    @every_rank
    @is_antithetic
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_is_that_of_the_stored_members(self, activation, antithetic, rank, dtype):
        model = pg.MLP(SIZES, activation=activation, dtype=dtype)
        X, y = samples_for(model)
        population = around(model, antithetic=antithetic, rank=rank)
        made, stored = model.evaluate(population, X, y), model.evaluate(population.rows(0, 34), X, y)
        if rank is None:
            assert np.array_equal(made, stored)  # the same numbers go through the same kernels
        elif activation == "step":
            # A unit near zero may fall to the other side of it, for one sample of 200.
            assert np.median(np.abs(made - stored)) < 1e-6
            assert np.allclose(made, stored, rtol=0, atol=0.05)
        else:
            assert np.allclose(made, stored, rtol=2e-5 if dtype == "float32" else 1e-13, atol=0)
        assert len(np.unique(made)) > 30

    @every_rank
    @pytest.mark.parametrize("sizes", [[4, 3], [1, 1, 1], [64, 32, 10], [9, 40, 17, 6, 3]], ids=str)
    @pytest.mark.parametrize("samples", [1, 63, 64, 65, 1024, 2500])
    def test_depths_widths_and_lengths(self, sizes, samples, rank):
        rank = None if rank is None else min(rank, max(map(min, zip(sizes[1:], sizes[:-1], strict=True))))
        loss = "mse" if sizes[-1] == 1 else "cross_entropy"
        model = pg.MLP(sizes, activation="tanh", loss=loss)
        X, y = samples_for(model, samples)
        for popsize in (2, 30, 200):
            population = around(model, popsize, rank=rank)
            made, stored = model.evaluate(population, X, y), model.evaluate(population.rows(0, popsize), X, y)
            assert np.allclose(made, stored, rtol=2e-5 if rank else 0, atol=0)

    @every_rank
    def test_metrics_and_weights(self, rank):
        model = pg.MLP(SIZES, dtype="float64")
        X, y = samples_for(model)
        weight = np.random.default_rng(1).uniform(size=len(X))
        population = around(model, rank=rank)
        stored = population.rows(0, 34)
        for metric in ("loss", "error_rate"):
            made = model.evaluate(population, X, y, metric, sample_weight=weight)
            assert np.allclose(made, model.evaluate(stored, X, y, metric, sample_weight=weight), rtol=1e-12)

    @every_dtype
    @every_rank
    @pytest.mark.parametrize(("popsize", "samples"), [(10, 3000), (400, 300)])
    def test_bits_do_not_depend_on_threads(self, popsize, samples, rank, dtype):
        model = pg.MLP([17, 12, 6], dtype=dtype)
        X, y = samples_for(model, samples)
        data = model.objective(X, y)
        population = around(model, popsize, rank=rank)
        first, *others = with_threads(lambda: data.values(population))
        for other in others:
            assert np.array_equal(first, other)

    @every_rank
    def test_a_member_whose_value_is_not_finite_has_infinity(self, rank):
        model = pg.MLP([5, 4, 2], activation="identity", loss="mse")
        X, y = np.full((3, 5), 1e30), np.zeros((3, 2))
        values = model.evaluate(around(model, 20, sigma=1e15, rank=None if rank is None else 1), X, y)
        assert np.array_equal(values, np.full(20, np.inf))

    def test_the_center_is_copied(self):
        model = pg.MLP(SIZES)
        X, y = samples_for(model)
        population = around(model)
        before = model.evaluate(population, X, y)
        model.params[:] = 0
        assert np.array_equal(model.evaluate(population, X, y), before)
        with pytest.raises(ValueError, match="read-only"):
            population.center[0] = 1

    def test_one_that_does_not_fit_the_model(self):
        model = pg.MLP(SIZES)
        X, y = samples_for(model)
        wrong = {
            "of 58 parameters, got 57": pg.Perturbations(model.params[1:], 0.1, 4, 0),
            "dtype float32, got float64": pg.Perturbations(model.params.astype(float), 0.1, 4, 0),
            "the model's layout": pg.Perturbations(model.params, 0.1, 4, 0, rank=1, layout=pg.Layout({"w": (29, 2)})),
        }
        for message, population in wrong.items():
            with pytest.raises(pg.InputError, match=rf"\[MLP.evaluate\] .*{message}"):
                model.evaluate(population, X, y)


class TestRows:
    @every_dtype
    @every_rank
    @is_antithetic
    def test_chunks_are_slices(self, antithetic, rank, dtype):
        population = around(pg.MLP([300, 70, 3], dtype=dtype), 12, antithetic=antithetic, rank=rank)
        whole = population.rows(0, 12)
        assert whole.shape == population.shape
        assert whole.dtype == population.dtype == np.dtype(dtype)
        for first, last in ((0, 0), (12, 12), (0, 1), (5, 7), (3, 12)):
            assert np.array_equal(population.rows(first, last), whole[first:last])
        assert len(np.unique(whole[:, 0])) == 12

    @every_rank
    def test_mirror_images(self, rank):
        model = pg.MLP([30, 20, 3], dtype="float64")
        population = around(model, 12, rank=rank)
        rows = population.rows(0, 12)
        assert np.allclose(rows[:6] + rows[6:], 2 * model.params, rtol=0, atol=1e-14)
        assert len(population) == 12

    @every_rank
    def test_bits_do_not_depend_on_threads(self, rank):
        population = around(pg.MLP([300, 70, 3]), 9, antithetic=False, rank=rank)
        first, *others = with_threads(lambda: population.rows(0, 9))
        for other in others:
            assert np.array_equal(first, other)

    @every_dtype
    def test_center_and_sigma(self, dtype):
        center = np.linspace(-3, 3, 1000).astype(dtype)
        rows = pg.Perturbations(center, 0.25, 8, 7, antithetic=False).rows(0, 8)
        assert np.array_equal(rows, center + np.dtype(dtype).type(0.25) * noise_of(8, 1000, 7, dtype))

    def test_a_member_and_a_coordinate_are_a_function_of_their_numbers(self):
        whole = noise_of(9, 1001)
        assert np.array_equal(noise_of(4, 300), whole[:4, :300])
        assert np.array_equal(noise_of(9, 1001, dtype=np.float64).astype(np.float32), whole)

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_low_rank(self, rank):
        """The noise of a matrix has that rank and variance one; that of a bias is like any other."""
        model = pg.MLP([40, 30, 8], dtype="float64")
        zero = np.zeros_like(model.params)
        rows = pg.Perturbations(zero, 1.0, 2000, 3, False, rank, model.layout).rows(0, 2000)
        assert np.linalg.matrix_rank(rows[0, :1200].reshape(30, 40)) == rank
        assert np.linalg.matrix_rank(rows[0, 1230:1470].reshape(8, 30)) == rank
        for part in (slice(0, 1200), slice(1200, 1230), slice(1230, 1470), slice(1470, 1478)):
            values = rows[:, part]
            assert abs(values.mean()) < 0.02
            assert abs(values.var() - 1) < 0.05
        assert stats.kstest(rows[:, 1200:1230].ravel(), "norm").pvalue > 1e-4

    @pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (0, 5), (5, 5), (0.5, 2), ("0", 2), (True, 2)])
    def test_numbers_that_are_not_members(self, first, last):
        with pytest.raises(pg.InputError, match=r"\[Perturbations.rows\]"):
            pg.Perturbations(np.zeros(3), 0.1, 4, 0).rows(first, last)

    def test_what_does_not_fit_into_memory_is_refused(self):
        population = pg.Perturbations(np.zeros(1 << 20, np.float32), 0.1, 1 << 31, 0)
        message = r"needs 8,388,608.0 GiB; this machine has .* accepts the Perturbations object"
        with pytest.raises(pg.InputError, match=message):
            population.rows(0, 1 << 31)
        assert population.rows((1 << 31) - 1, 1 << 31).shape == (1, 1 << 20)


class TestCombine:
    @every_dtype
    @every_rank
    @is_antithetic
    @pytest.mark.parametrize("popsize", [2, 130, 1000])
    def test_is_the_sum_over_stored_noise(self, popsize, antithetic, rank, dtype):
        model = pg.MLP([33, 28, 3], dtype=dtype)
        weights = np.random.default_rng(0).normal(size=popsize)
        weights[::3] = 0
        made = around(model, popsize, antithetic=antithetic, rank=rank).combine(weights)
        zero = np.zeros(len(model.params))
        noise = pg.Perturbations(zero, 1.0, popsize, 5, antithetic, rank, model.layout).rows(0, popsize)
        assert made.dtype == model.dtype
        rounding = np.finfo(dtype).eps * (np.abs(weights) @ (np.abs(noise) + 1))
        assert (np.abs(made - weights @ noise) <= 4 * rounding).all()

    @every_dtype
    @every_rank
    def test_bits_do_not_depend_on_threads(self, rank, dtype):
        population = around(pg.MLP([300, 70, 3], dtype=dtype), 300, rank=rank)
        weights = np.random.default_rng(0).normal(size=300)
        first, *others = with_threads(lambda: population.combine(weights))
        for other in others:
            assert np.array_equal(first, other)

    @every_rank
    def test_many_members_lose_no_digits(self, rank):
        weights = np.random.default_rng(0).random(100_000) + 0.5
        layout = pg.Layout({"w": (3, 3), "b": (3,)})
        float64, float32 = (
            pg.Perturbations(np.zeros(12, dtype), 0.1, 100_000, 5, False, rank, layout).combine(weights)
            for dtype in (np.float64, np.float32)
        )
        assert np.abs(float32 - float64).max() <= 2e-6 * np.sqrt((weights**2).sum())

    def test_a_sum_that_is_not_finite(self):
        members = pg.Perturbations(np.zeros(3, np.float32), 0.1, 4, 0)
        with pytest.raises(pg.InputError, match=r"\[Perturbations.combine\] weights are too large: float32"):
            members.combine([3e38, 0, -3e38, 0])

    @every_rank
    def test_no_weight_no_noise(self, rank):
        population = around(pg.MLP(SIZES), 8, rank=rank)
        assert not population.combine(np.zeros(8)).any()
        assert not population.combine(np.ones(8)).any()  # mirror images cancel
        assert population.combine([1, 0, 0, 0, 0, 0, 0, 0]).any()

    @pytest.mark.parametrize("weights", [[1.0] * 3, [[1.0] * 4], [np.nan, 0, 0, 0], [1e39, 0, 0, 0], ["a"] * 4, 1.0])
    def test_bad_weights(self, weights):
        with pytest.raises(pg.InputError, match=r"\[Perturbations.combine\] weights"):
            pg.Perturbations(np.zeros(3, np.float32), 0.1, 4, 0).combine(weights)

    @every_rank
    def test_follows_a_slope(self, rank):
        """An evolution strategy made of the three methods learns."""
        model = pg.MLP([6, 12, 2], activation="tanh", seed=1)
        X = np.random.default_rng(0).normal(size=(300, 6))
        y = (X[:, 0] * X[:, 1] > 0).astype(int)
        data, rank = model.objective(X, y), None if rank is None else min(rank, 2)
        before = model.loss(X, y)
        for t in range(150):
            population = pg.Perturbations(model.params, 0.1, 128, t, rank=rank, layout=model.layout)
            values = data.values(population)
            ranks = stats.rankdata(values) / len(values) - 0.5
            model.params -= 0.5 * population.combine(ranks) / (len(values) * population.sigma)
        assert model.loss(X, y) < 0.6 * before


@pytest.fixture(scope="module")
def normals():
    return noise_of(40, 250_000)  # 10^7


class TestNoise:
    def test_moments(self, normals):
        x, n = normals.ravel().astype(float), normals.size
        square = x * x
        assert abs(x.mean()) < BOUND * np.sqrt(1 / n)
        assert abs(square.mean() - 1) < BOUND * np.sqrt(2 / n)
        assert abs((square * x).mean()) < BOUND * np.sqrt(15 / n)
        assert abs((square * square).mean() - 3) < BOUND * np.sqrt(96 / n)
        assert stats.kstest(x[:500_000], "norm").pvalue > 1e-4

    @pytest.mark.parametrize("side", [-1, 1])
    def test_tails(self, normals, side):
        for sigmas in (1, 3, 4, 5):
            expected = normals.size * stats.norm.sf(sigmas)
            low, high = stats.poisson.ppf([1e-7, 1 - 1e-7], expected)
            assert low <= (side * normals > sigmas).sum() <= high
        assert 4.5 < (side * normals).max() < 6.77

    # What shares a block of the generator lies 64 apart: coordinates i and i + 64 a radius, i + 128 its words.
    @pytest.mark.parametrize("lag", [1, 2, 63, 64, 65, 128, 192, 256])
    def test_coordinates_are_independent(self, normals, lag):
        self.assert_uncorrelated(normals[:16, :-lag], normals[:16, lag:])

    def test_members_and_seeds_are_independent(self, normals):
        few = normals[:16]
        self.assert_uncorrelated(few, normals[1:17])
        for seed in (0, 2, 1 + 2**32, 1 + 2**63):
            self.assert_uncorrelated(few, noise_of(16, 250_000, seed))

    def test_is_not_that_of_a_search(self):
        """A model's first weights and a search draw from other streams: the same seed may serve all."""
        run = pg.search.OpenAIES(popsize=2, sigma=1.0).start(np.zeros(1000, np.float32), seed=1)
        assert len(np.intersect1d(run.ask(), noise_of(2, 1000))) < 5

    def test_quarters_of_a_block_are_alike(self, normals):
        for quarter in range(4):
            part = normals[:, : 976 * 256].reshape(-1, 256)[:, 64 * quarter : 64 * quarter + 64].astype(float)
            assert abs(part.mean()) < BOUND / np.sqrt(part.size)
            assert abs(part.var() - 1) < BOUND * np.sqrt(2 / part.size)

    @staticmethod
    def assert_uncorrelated(a, b):
        a, b = np.ravel(a), np.ravel(b)
        for f in (lambda x: x, lambda x: x * x - 1):
            r = np.dot(f(a).astype(float), f(b)) / (a.size * f(a).var())
            assert abs(r) < BOUND / np.sqrt(a.size)


def test_copies_and_pickles():
    model = pg.MLP(SIZES)
    population = around(model, rank=2)
    for other in (copy.deepcopy(population), pickle.loads(pickle.dumps(population))):
        assert np.array_equal(other.rows(0, 34), population.rows(0, 34))
        assert not other.center.flags.writeable
    assert "popsize=34" in repr(population)
    assert "rank=2" in repr(population)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"center": np.zeros((2, 3))}, r"center must be a float32 or float64 vector"),
        ({"center": np.zeros(0)}, r"center must be"),
        ({"center": np.zeros(6, np.int64)}, r"center must be .* got int64"),
        ({"center": np.zeros(6, np.float16)}, r"center must be .* got float16"),
        ({"center": "abc"}, r"center must be"),
        ({"center": np.array([0, 0, np.nan, 0, 0, 0])}, r"center holds NaN or infinity \(first in place 2\)"),
        ({"sigma": 0.0}, "sigma must be a finite number > 0"),
        ({"sigma": -1.0}, "sigma must be a finite number > 0"),
        ({"sigma": np.nan}, "sigma must be a finite number > 0"),
        ({"sigma": np.inf}, "sigma must be a finite number > 0"),
        ({"sigma": "1"}, "sigma must be a finite number > 0"),
        ({"sigma": max}, "sigma must be a finite number > 0"),
        ({"sigma": 1e-60}, "sigma must be a number > 0 that float32 can hold"),
        ({"sigma": 1e60}, "sigma must be a number > 0 that float32 can hold"),
        ({"popsize": 0}, "popsize must be a whole number >= 1"),
        ({"popsize": 2.0}, "popsize must be a whole number >= 1"),
        ({"popsize": 3}, "popsize must be even"),
        ({"popsize": 1 << 32}, r"popsize must be below 2\^32"),
        ({"popsize": 1 << 70}, r"popsize must be below 2\^32"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 1 << 64}, r"seed must be below 2\^64"),
        ({"antithetic": "yes"}, "antithetic must be True or False"),
        ({"rank": 0}, "rank must be a whole number >= 1"),
        ({"rank": 1.0}, "rank must be a whole number >= 1"),
        ({"rank": 3}, "rank must be at most the shorter side of some matrix, 2, got 3"),
        ({"rank": 1 << 70}, "rank must be at most"),
        ({"rank": 1, "layout": None}, "rank needs a layout with a matrix"),
        ({"rank": 1, "layout": pg.Layout({"b": (6,)})}, "rank needs a layout with a matrix"),
        ({"rank": 1, "layout": pg.Layout({"w": (2, 2)})}, "layout must add up to 6 parameters, got 4"),
        ({"rank": 1, "layout": pg.Layout({"w": (1 << 40, 1 << 40)})}, "layout must add up to 6 parameters"),
        ({"rank": 1, "layout": [(2, 2), (2,)]}, r"layout must be a popgrad\.Layout, such as model\.layout"),
    ],
    ids=str,
)
def test_bad_input(change, message):
    good = {"center": np.zeros(6, np.float32), "sigma": 0.1, "popsize": 4, "seed": 0}
    good["layout"] = pg.Layout({"w": (2, 2), "b": (2,)})
    pg.Perturbations(**good)
    with pytest.raises(pg.InputError, match=rf"^\[Perturbations\] .*{message}"):
        pg.Perturbations(**(good | change))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the largest size of a process as Linux counts it")
@pytest.mark.parametrize("rank", [None, 1])
def test_memory_does_not_grow_with_the_population(rank):
    """10^5 candidates of 2,410 parameters would be 0.9 GiB; they take a few numbers each."""
    code = f"""
import resource
import numpy as np, popgrad as pg
model = pg.MLP([64, 32, 10])
data = model.objective(np.ones((64, 64)), np.zeros(64, int))
def run(popsize):
    population = pg.Perturbations(model.params, 0.1, popsize, 0, rank={rank}, layout=model.layout)
    population.combine(data.values(population))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small = run(1000)
print((run(100_000) - small) / 99_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) < 8 * 8


def test_metrics_of_outputs_make_no_more_members_than_memory_is_for():
    model = pg.MLP([100, 100, 2])
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(16, 100)), np.arange(16) % 2
    population = pg.Perturbations(model.params, 0.1, 2000, 0)  # 78 MiB
    tracemalloc.start()
    values = model.evaluate(population, X, y, "auc", memory_limit=1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()
    np.testing.assert_array_equal(values[:9], model.evaluate(population.rows(0, 9), X, y, "auc"))


@pytest.mark.parametrize(
    "options",
    [{"metric": "auc"}, {"weights": "ternary"}, {"samples": [3, 1, 4, 1, 5]}, {"metric": lambda z, y: z.sum((1, 2))}],
)
def test_whatever_evaluate_can_do_it_can_do_here(options):
    model = pg.MLP([5, 7, 2], "tanh", seed=0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 5)), rng.integers(2, size=40)
    noise = pg.Perturbations(model.params, 0.3, 12, seed=1)
    stored = model.evaluate(noise.rows(0, 12), X, y, **options)
    np.testing.assert_allclose(model.evaluate(noise, X, y, memory_limit=3000, **options), stored, rtol=1e-6)
