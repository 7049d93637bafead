"""Training on mapped files: the results of arrays in memory, without a copy of the whole."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose

import popgrad as pg
from popgrad.checks import InputError
from popgrad.models import mapped
from popgrad.objective import Batch

SAMPLES, INPUTS = 500, 6
rng = np.random.default_rng(0)
X = rng.normal(size=(SAMPLES, INPUTS)).astype(np.float32)
LABELS = (X[:, 0] > 0.3).astype(np.int64) + (X[:, 1] > 0)
NUMBERS = (X @ rng.normal(size=(INPUTS, 2))).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


def model(loss="cross_entropy", **settings):
    return pg.MLP([INPUTS, 8, 3 if loss == "cross_entropy" else 2], loss=loss, seed=1, **settings)


def targets(loss):
    return LABELS if loss == "cross_entropy" else NUMBERS


@pytest.fixture(params=["one part", "many parts"])
def parts(request, monkeypatch):
    if request.param == "many parts":
        monkeypatch.setattr(mapped, "PART", 70 * INPUTS * 4)  # 70 samples


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("settings", [{}, {"dropout": 0.2}], ids=["plain", "dropout"])
def test_minibatches_train_to_the_same_bits(loss, settings, file, parts):
    def fitted(inputs):
        net = model(loss, **settings)
        optimizer = pg.optim.Adam(0.01)
        weight = np.arange(SAMPLES) % 5  # samples of weight 0 are dropped
        found = pg.fit(
            net, inputs, targets(loss), optimizer=optimizer, epochs=3, validation=0.2, sample_weight=weight, seed=4
        )
        return found, found.last.method.recommend(found.last.state)

    (memory, w), (disk, v) = fitted(X), fitted(file)
    assert w.tobytes() == v.tobytes()
    assert memory.forwards == disk.forwards
    for name in ("loss", "metric", "validation_loss", "validation_metric", "objective"):
        assert_allclose(getattr(memory, name), getattr(disk, name), rtol=1e-5)


@pytest.mark.parametrize("metric", ["loss", "error_rate", "balanced_error", "f1_macro", "mine"])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_those_of_memory(metric, weighted, file, parts):
    if metric == "mine":
        metric = lambda z, y: (z.argmax(axis=2) != y).mean(axis=1)  # noqa: E731
        weighted = False
    weight = rng.random(SAMPLES).astype(np.float32) if weighted else None
    net = model()
    memory, disk = (net.objective(inputs, LABELS, weight, metric=metric) for inputs in (X, file))
    assert isinstance(disk, mapped.MappedObjective)
    population = (net.params + rng.normal(size=(5, len(net.params)))).astype(np.float32)
    some = np.sort(rng.permutation(SAMPLES)[:200])
    for batch in (Batch(), Batch(some)):
        assert_allclose(disk.values(population, batch), memory.values(population, batch), rtol=2e-6)
    assert_allclose(disk.report(net.params), memory.report(net.params), rtol=2e-6)
    few = Batch(some[:64])
    assert disk.values(population, few).tobytes() == memory.values(population, few).tobytes()
    around = pg.Perturbations(net.params, sigma=0.1, popsize=6, seed=0)
    assert_allclose(disk.values(around), memory.values(around), rtol=2e-6)


def test_a_gradient_of_all_samples_is_that_of_memory(file, parts):
    net = model("mse")
    weight = rng.random(SAMPLES)
    memory, disk = (net.objective(inputs, NUMBERS, weight) for inputs in (X, file))
    a, b = np.empty_like(net.params), np.empty_like(net.params)
    assert_allclose(memory.gradient(net.params, Batch(), a), disk.gradient(net.params, Batch(), b), rtol=1e-6)
    assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dropout", [0, 0.3])
def test_a_line_search(dropout, file, parts):
    net = model(dropout=dropout)
    memory, disk = (net.objective(inputs, LABELS) for inputs in (X, file))
    for batch in (Batch(np.arange(20), 3), Batch(None, 0)):
        assert_allclose(disk.loss(net.params, batch), memory.loss(net.params, batch), rtol=1e-6)
        assert disk.loss_cost(batch) == memory.loss_cost(batch)


def test_a_subset_of_a_subset(file, parts):
    net = model("mse")
    memory, disk = (net.objective(inputs, NUMBERS) for inputs in (X, file))
    for rows in (np.arange(0, SAMPLES, 3), np.array([5, 1, 9])):
        memory, disk = memory.subset(rows), disk.subset(rows)
        assert disk.whole.X.base is not None
        assert_allclose(disk.values(net.params[None]), memory.values(net.params[None]), rtol=2e-6)


def test_a_method_that_samples_targets(file):
    ends = []
    for inputs in (X, file):
        net = model()
        pg.fit(net, inputs, LABELS, optimizer=pg.optim.SophiaG(), epochs=2, seed=0)
        ends.append(net.params.tobytes())
    assert ends[0] == ends[1]


def test_a_search_and_racing(file, parts):
    ends = []
    for inputs in (X, file):
        net = model()
        pg.fit(net, inputs, LABELS, optimizer=pg.search.PSO(popsize=8), epochs=4, racing=pg.Racing(keep=0.5), seed=0)
        ends.append(net.loss(X, LABELS))
    assert_allclose(*ends, rtol=0.2)


def test_a_run_that_diverged_is_judged(file, parts):
    net = model("mse")
    history = pg.fit(net, file, NUMBERS, optimizer=pg.optim.SGD(1e4), epochs=2)
    assert history.diverged


def test_bad_rows_are_found_in_any_block(tmp_path, monkeypatch):
    from popgrad.models import validation

    monkeypatch.setattr(validation, "_BLOCK", 10 * INPUTS)
    for row in (0, 9, 10, 499):
        bad = X.copy()
        bad[row, 2] = np.nan
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(InputError, match=rf"X holds NaN.*first in row {row}\)"):
            pg.fit(model(), np.load(tmp_path / "bad.npy", mmap_mode="r"), LABELS, optimizer=pg.optim.Adam())


def test_the_whole_is_never_copied(tmp_path, monkeypatch):
    """NumPy reports its memory to tracemalloc; the pages of a mapped file are not part of it."""
    rows, inputs = 20_000, 200
    file = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (rows, inputs))
    file[:] = 0.5
    y = np.arange(rows) % 2
    monkeypatch.setattr(mapped, "PART", 1 << 18)
    net = pg.MLP([inputs, 4, 2])
    tracemalloc.start()
    try:
        pg.fit(net, file, y, optimizer=pg.optim.Adam(), epochs=1, validation=0.2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.nbytes == 16_000_000
    assert peak < 6_000_000  # labels, order of the samples, and parts


def test_a_large_file_is_not_converted(tmp_path, monkeypatch):
    from popgrad.models import validation

    np.save(tmp_path / "X.npy", X.astype(np.float64))
    np.save(tmp_path / "F.npy", np.asfortranarray(X))
    wide, turned = (np.load(tmp_path / name, mmap_mode="r") for name in ("X.npy", "F.npy"))
    assert model().objective(wide, LABELS).samples == SAMPLES  # a small file may be copied
    monkeypatch.setattr(validation, "memory_bytes", lambda: 2.0 * X.nbytes)
    with pytest.raises(InputError, match=r"must be float32 in C order.*got float64 \(500, 6\): write it as that"):
        model().objective(wide, LABELS)
    with pytest.raises(InputError, match="not in C order"):
        model().objective(turned, LABELS)
    source = pg.BatchStream.from_arrays(wide, LABELS)
    assert pg.fit(model(), source, optimizer=pg.optim.Adam(), epochs=1).reason == "finished 1 epoch"
    assert model(dtype="float64").objective(wide, LABELS).samples == SAMPLES


def test_arrays_in_memory_are_left_alone(file):
    net = model()
    assert not isinstance(net.objective(X, LABELS), mapped.MappedObjective)
    assert not isinstance(
        net.objective(file.astype(np.float64), LABELS), mapped.MappedObjective
    )  # converted, so copied


def test_released_pages_keep_their_values(tmp_path):
    from popgrad import arrays

    np.save(tmp_path / "X.npy", X)
    for mode in ("r", "r+", "c"):
        file = np.load(tmp_path / "X.npy", mmap_mode=mode)
        expected = X.copy()
        if mode != "r":
            file[3] = expected[3] = 7
        arrays.release(np.asarray(file)[2:])
        assert np.array_equal(file, expected)
        if mode == "r+":
            file[3] = X[3]
    arrays.release(X)


def test_a_private_copy_of_a_file_trains_with_its_changes(tmp_path):
    np.save(tmp_path / "X.npy", X * np.nan)
    file = np.load(tmp_path / "X.npy", mmap_mode="c")
    file[:] = X
    net = model()
    pg.fit(net, file, LABELS, optimizer=pg.optim.Adam(), epochs=1)
    assert np.array_equal(file, X)
