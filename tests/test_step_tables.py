"""Tables of steps: `NativeOptimizer.table` has the bits of `plan`, and columns have the bits of floats."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cases import OPTIMIZERS
from popgrad import optim
from popgrad.checks import InputError
from popgrad.columns import column, cosine, running_maximum, running_product, running_sum, sqrt, where
from variants import PRESETS, VARIANTS


def cooling(t):
    """A schedule that is a function of one step."""
    assert isinstance(t, int)
    return 0.01 / (1 + 0.2 * t)


def assert_table_is_the_plans(optimizer, first, count, numbers):
    before = dict(numbers)
    table = optimizer.table(first, count, numbers)
    assert numbers == before
    assert len(table.fields) == count
    assert table.fields.dtype == np.float64
    assert table.fields.flags.c_contiguous
    for i in range(count):
        plan = optimizer.plan(first + i, numbers)
        assert plan.rule.name == table.rule.name
        assert dict(zip(table.rule.fields, table.fields[i], strict=True)) == plan.fields, first + i
        if plan.extras is None:
            assert table.extras is None
        else:
            extras = plan.extras
            expected = [extras.scale, extras.clip, extras.l2, extras.decay, extras.l1, extras.mix]
            expected += [extras.clip_norm, extras.skip_nonfinite, extras.max_norm, extras.noise, extras.noise_seed]
            assert table.extras[i].tolist() == expected, first + i
        assert {name: values[i] for name, values in table.numbers.items()} == numbers, first + i


ALL = [rule.optimizer for rule in [*OPTIMIZERS, *VARIANTS, *PRESETS]]


@pytest.mark.parametrize("optimizer", ALL, ids=[f"{k}-{type(o).__name__}" for k, o in enumerate(ALL)])
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_table_has_the_bits_of_the_plans(optimizer, scheduled):
    if scheduled and callable(optimizer.learning_rate):
        return
    if scheduled:
        optimizer = replace(optimizer, learning_rate=cooling, max_learning_rate=0.01)
    for first in (1, 990, 1_000_000):
        assert_table_is_the_plans(optimizer, first, 40, dict(optimizer.first_numbers))


@pytest.mark.parametrize("kind", optim.REGISTRY.values(), ids=optim.REGISTRY)
@pytest.mark.parametrize("mode", ["coupled", "decoupled", "independent"])
def test_a_table_holds_the_options(kind, mode):
    if mode not in kind.decay_modes:
        return
    for rate in (kind().learning_rate, cooling):
        optimizer = kind(
            rate,
            weight_decay=0.3,
            weight_decay_mode=mode,
            max_learning_rate=2.0,
            l1=0.1,
            clip_value=2.0,
            clip_norm=3.0,
            skip_nonfinite=True,
            ema_decay=0.9,
            max_norm=2.0 if kind.allows_max_norm else None,
            gradient_noise=0.3 if rate is cooling else cooling,
            noise_seed=(1 << 53) - 1,
        )
        assert_table_is_the_plans(optimizer, 1, 5, dict(optimizer.first_numbers))
        assert_table_is_the_plans(optimizer, 77, 5, dict(optimizer.first_numbers))


@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("threshold", [4.0, 5.0])
def test_radam_adapts_at_the_same_steps(beta2, threshold):
    """2 / (1 - 0.6) - 1 is 4, where the formula of the adaptive step divides by zero."""
    assert_table_is_the_plans(optim.RAdam(beta2=beta2, threshold=threshold), 1, 50, {})


def test_a_table_calls_a_schedule_once_a_step_in_order():
    seen = []

    def schedule(t):
        seen.append(t)
        return 0.1

    optim.SGD(schedule).table(5, 4, {})
    assert seen == [5, 6, 7, 8]
    assert all(type(t) is int for t in seen)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_table_ends_before_a_bad_value(value):
    optimizer = optim.Adam(lambda t: value if t == 7 else 0.1)
    table = optimizer.table(3, 10, {})
    assert len(table.fields) == 4
    with pytest.raises(InputError, match=rf"\[Adam\] learning_rate .* at step 7, got {value!r}"):
        optimizer.table(7, 10, {})
    assert len(optimizer.table(8, 10, {}).fields) == 10


def test_a_table_ends_before_a_schedule_that_raises():
    def schedule(t):
        return 0.1 if t < 7 else {}["gone"]

    optimizer = optim.NAdam(schedule, ema_decay=0.5)
    table = optimizer.table(3, 10, dict(optimizer.first_numbers))
    assert [len(table.fields), len(table.extras), len(table.numbers["product"])] == [4, 4, 4]
    with pytest.raises(KeyError, match="gone"):
        optimizer.table(7, 10, dict(optimizer.first_numbers))


def test_a_table_ends_before_weights_change_their_sign():
    optimizer = optim.AdamW(lambda t: 0.1 * t, weight_decay=2.0)
    assert len(optimizer.table(1, 10, {}).fields) == 5
    with pytest.raises(InputError, match=r"weights change their sign, got 1.2\d* at step 6"):
        optimizer.table(6, 10, {})


# --- Columns -------------------------------------------------------------------------------------------------------


def test_columns_have_the_bits_of_floats():
    random = np.random.default_rng(0)
    bases = np.concatenate([random.uniform(0, 1, 20_000), 1 - 10 ** random.uniform(-9, 0, 20_000), [0.0, 1.0, 0.5]])
    steps = np.concatenate([random.integers(1, 10**6, 20_000), random.integers(1, 300, 20_003)])
    assert (column(bases) ** column(steps)).tolist() == [
        b ** int(t) for b, t in zip(bases.tolist(), steps, strict=True)
    ]
    for base in (0.9, 0.999, 0.96, 0.0, 1.0, 1.5):
        some = column(np.arange(1.0, 1500.0))
        assert (base**some).tolist() == [base**t for t in range(1, 1500)]
        assert (some**base).tolist() == [t**base for t in range(1, 1500)]
    angles = random.uniform(-10, 10, 20_000)
    assert cosine(column(angles)).tolist() == [math.cos(x) for x in angles.tolist()]
    assert sqrt(column(bases)).tolist() == [math.sqrt(x) for x in bases.tolist()]


def test_running_columns_are_loops():
    terms = np.random.default_rng(1).uniform(0.5, 1.5, 1000)
    product, total, most = 1.0, 0.0, 0.7
    for i, term in enumerate(terms.tolist()):
        product, total, most = running_product(product, term), running_sum(total, term), running_maximum(most, term)
        assert running_product(1.0, column(terms[: i + 1]))[-1] == product
        assert running_sum(0.0, column(terms[: i + 1]))[-1] == total
        assert running_maximum(0.7, column(terms[: i + 1]))[-1] == most


def test_where_chooses_by_element():
    steps = column([1, 2, 3])
    assert where(steps > 2, steps, 0.0).tolist() == [0.0, 0.0, 3.0]
    assert [where(t > 2, t, 0.0) for t in (1, 2, 3)] == [0.0, 0.0, 3]
