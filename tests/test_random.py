"""The random numbers of the moves: their distribution, their independence, and that they are a pure function.

Every call is keyed by numbers written here, so these tests give the same result each time. A statistic may be
five of its standard errors off: what one in two million fair generators would exceed.
"""

import numpy as np
import pytest
from scipy import stats

import popgrad._core as core

RULES = core.move_rules()
DTYPES = [np.float32, np.float64]
BOUND = 5.0  # standard errors
FARTHEST = np.sqrt(2 * 33 * np.log(2))  # the longest radius that 32 bits can give: 6.76


def draw(kind, popsize, n, *, dtype=np.float32, seed=1, stream=0, generation=0, identity=None):
    """(popsize, n) numbers: standard normal, or uniform in [0, 1)."""
    out = np.full((popsize, n), np.nan, dtype)
    zero, one = np.zeros(n, dtype), np.ones(n, dtype)
    fields, sources = {"Gaussian": ([1.0], [zero]), "Uniform": ([], [zero, one])}[kind]
    if identity is not None:
        identity = np.asarray(identity, np.uint32)
    fields = np.asarray(fields, np.float64)
    core.move(RULES[kind], fields, [out], sources, seed, stream, generation, identity=identity)
    return out


def assert_uncorrelated(a, b):
    """Neither the values nor their distances from the middle know of each other."""
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    assert not np.array_equal(a, b)
    for f in (lambda x: x - x.mean(), lambda x: (x - x.mean()) ** 2 - x.var()):
        r = np.corrcoef(f(a), f(b))[0, 1]
        assert abs(r) < BOUND / np.sqrt(a.size)


@pytest.fixture(scope="module")
def normals():
    return draw("Gaussian", 64, 50_000).ravel().astype(float)


@pytest.fixture(scope="module")
def uniforms():
    return draw("Uniform", 64, 50_000).ravel().astype(float)


class TestNormal:
    def test_moments(self, normals):
        n = normals.size
        assert abs(normals.mean()) < BOUND * np.sqrt(1 / n)
        assert abs(normals.var() - 1) < BOUND * np.sqrt(2 / n)
        assert abs(stats.skew(normals)) < BOUND * np.sqrt(6 / n)
        assert abs(stats.kurtosis(normals)) < BOUND * np.sqrt(24 / n)

    @pytest.mark.parametrize("sigmas", [0.01, 0.1, 0.5, 1, 2, 3, 4, 4.5])
    @pytest.mark.parametrize("side", [-1, 1])
    def test_tails(self, normals, sigmas, side):
        expected = normals.size * stats.norm.sf(sigmas)
        assert abs((side * normals > sigmas).sum() - expected) < BOUND * np.sqrt(expected)

    def test_largest(self, normals):
        # Of n normals, the largest exceeds x with probability n * sf(x), where that is small.
        largest = np.abs(normals).max()
        assert 2 * normals.size * stats.norm.sf(largest) < 12  # exp(-12): none as large as ought to be
        assert 2 * normals.size * stats.norm.sf(largest) > 1e-5
        assert largest < FARTHEST

    def test_kolmogorov_smirnov(self, normals):
        assert stats.kstest(normals[:500_000], "norm").pvalue > 1e-4

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_negative_sigma_takes_the_antithetic_step(self, dtype):
        n = 1000
        rule, center = RULES["Gaussian"], np.linspace(-1, 1, n).astype(dtype)
        up, down = np.empty((3, n), dtype), np.empty((3, n), dtype)
        core.move(rule, np.array([0.25]), [up], [np.zeros(n, dtype)], 7, 0, 0)
        core.move(rule, np.array([-0.25]), [down], [np.zeros(n, dtype)], 7, 0, 0)
        assert np.array_equal(up, -down)
        assert np.array_equal(up / dtype(0.25), draw("Gaussian", 3, n, dtype=dtype, seed=7))
        core.move(rule, np.array([0.25]), [down], [center], 7, 0, 0)
        assert np.allclose(down - center, up, atol=2e-7)

    def test_a_sigma_for_each_member(self):
        n, sigmas = 1000, np.array([[0.5], [2.0], [0.0]])
        out = np.empty((3, n), np.float32)
        core.move(RULES["Gaussian"], sigmas, [out], [np.zeros(n, np.float32)], 1, 0, 0)
        assert np.array_equal(out, draw("Gaussian", 3, n) * sigmas.astype(np.float32))


class TestUniform:
    def test_range_and_grid(self, uniforms):
        assert uniforms.min() >= 0
        assert uniforms.max() < 1
        assert np.array_equal(uniforms * 2**24, np.floor(uniforms * 2**24))
        assert uniforms.min() < 12 / uniforms.size  # nothing is cut off at either end
        assert uniforms.max() > 1 - 12 / uniforms.size

    def test_moments(self, uniforms):
        n = uniforms.size
        assert abs(uniforms.mean() - 1 / 2) < BOUND * np.sqrt(1 / 12 / n)
        assert abs(uniforms.var() - 1 / 12) < BOUND * np.sqrt(1 / 180 / n)
        assert abs(stats.skew(uniforms)) < BOUND * np.sqrt(6 / n)
        assert abs(stats.kurtosis(uniforms) + 6 / 5) < BOUND * np.sqrt(24 / n)

    def test_every_bit_is_fair(self, uniforms):
        words = (uniforms * 2**24).astype(np.int64)
        for bit in range(24):
            ones = (words >> bit & 1).mean()
            assert abs(ones - 1 / 2) < BOUND * 0.5 / np.sqrt(words.size)

    def test_kolmogorov_smirnov(self, uniforms):
        assert stats.kstest(uniforms[:500_000], "uniform").pvalue > 1e-4

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_bounds(self, dtype):
        n = 100_000
        lower, upper = np.linspace(-3, 3, n).astype(dtype), np.linspace(-2, 9, n).astype(dtype)
        out = np.empty((2, n), dtype)
        core.move(RULES["Uniform"], np.empty(0), [out], [lower, upper], 1, 0, 0)
        assert (out >= lower).all()
        assert (out <= upper).all()
        u = draw("Uniform", 2, n, dtype=dtype)
        assert np.allclose(out, lower + u * (upper - lower), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["Gaussian", "Uniform"])
class TestIndependence:
    n = 200_000

    @pytest.mark.parametrize(
        "other",
        [
            {"seed": 2},
            {"seed": 1 + 2**32},
            {"seed": 1 + 2**63},
            {"stream": 1},
            {"stream": 2**31},
            {"generation": 1},
            {"generation": 2**31},
            {"identity": [1]},
            {"identity": [2**31]},
            {"stream": 1, "generation": 1},
        ],
        ids=str,
    )
    def test_of_another_key(self, kind, other):
        assert_uncorrelated(draw(kind, 1, self.n), draw(kind, 1, self.n, **other))

    def test_no_two_arguments_are_exchangeable(self, kind):
        """The same small numbers in other places of the key give other draws."""
        rows = [
            draw(kind, 1, 16, seed=seed, stream=stream, generation=generation, identity=[member])
            for seed in (0, 1)
            for stream in (0, 1)
            for generation in (0, 1)
            for member in (0, 1)
        ]
        assert len(np.unique(np.concatenate(rows), axis=0)) == len(rows)
        one = draw(kind, 2, 2)
        assert one[0, 1] != one[1, 0]

    @pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 16, 1024])
    def test_of_coordinates(self, kind, lag):
        x = draw(kind, 1, self.n)[0]
        assert_uncorrelated(x[:-lag], x[lag:])

    @pytest.mark.parametrize("lag", [1, 2, 16])
    def test_of_members(self, kind, lag):
        x = draw(kind, 1000, 200)
        assert_uncorrelated(x[:-lag], x[lag:])

    def test_of_all_members_at_once(self, kind):
        """The largest of the correlations between 100 members is what chance makes it."""
        r = np.corrcoef(draw(kind, 100, 10_000))[np.triu_indices(100, 1)] * np.sqrt(10_000)
        assert abs(r.mean()) < BOUND / np.sqrt(r.size)
        assert abs(r.var() - 1) < BOUND * np.sqrt(2 / r.size)
        assert 3 < np.abs(r).max() < 5.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["Gaussian", "Uniform"])
class TestPureFunction:
    def test_same_call_twice(self, kind, dtype):
        assert np.array_equal(draw(kind, 9, 1001, dtype=dtype), draw(kind, 9, 1001, dtype=dtype))

    def test_a_member_is_its_number(self, kind, dtype):
        identity = np.arange(9)
        whole = draw(kind, 9, 1001, dtype=dtype)
        assert np.array_equal(draw(kind, 9, 1001, dtype=dtype, identity=identity), whole)

    def test_any_subset_of_the_members(self, kind, dtype):
        whole, subset = draw(kind, 9, 1001, dtype=dtype), [7, 0, 3, 3, 8]
        assert np.array_equal(draw(kind, 5, 1001, dtype=dtype, identity=subset), whole[subset])

    @pytest.mark.parametrize("n", [1, 15, 16, 17, 1000])
    def test_fewer_coordinates_are_the_first_ones(self, kind, dtype, n):
        assert np.array_equal(draw(kind, 3, n, dtype=dtype), draw(kind, 3, 1001, dtype=dtype)[:, :n])

    def test_any_number_of_threads(self, kind, dtype):
        before = core.threads()
        try:
            results = []
            for threads in (1, 2, 3, 8):
                core.set_threads(threads)
                results.append(draw(kind, 5, 100_001, dtype=dtype))
        finally:
            core.set_threads(before)
        for other in results[1:]:
            assert np.array_equal(results[0], other)


@pytest.mark.parametrize("kind", ["Gaussian", "Uniform"])
def test_float32_and_float64_draw_the_same_numbers(kind):
    single, double = draw(kind, 7, 30_001, dtype=np.float32), draw(kind, 7, 30_001, dtype=np.float64)
    assert np.array_equal(single.astype(np.float64), double)
