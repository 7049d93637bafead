"""`pg.fit` on batches that the user supplies: a function of the epoch, a list, a DataLoader, an iterator."""

from __future__ import annotations

import re
from importlib.util import find_spec

import numpy as np
import pytest

import popgrad as pg
from fitting import small
from popgrad.checks import InputError

SAMPLES, SIZE = 50, 8
MODEL, X, Y = small(SAMPLES)
X = X.astype(np.float32)


def cut(order, size=SIZE):
    return [(X[order[at : at + size]], Y[order[at : at + size]]) for at in range(0, SAMPLES, size)]


def batches(epoch):
    return iter(cut(np.random.default_rng(epoch).permutation(SAMPLES)))


def stream(**settings):
    return pg.BatchStream(batches, SAMPLES, **settings)


def fitted(source, epochs=3, optimizer=None, **settings):
    net = small(SAMPLES)[0]
    history = pg.fit(net, source, optimizer=optimizer or pg.optim.Adam(0.01), epochs=epochs, **settings)
    return net, history


def by_hand(epochs=3):
    net = small(SAMPLES)[0]
    optimizer = pg.optim.Adam(0.01)
    state = optimizer.init(net.params)
    for epoch in range(epochs):
        for inputs, labels in batches(epoch):
            optimizer.step(net.params, net.gradient(inputs, labels)[1], state)
    return net


def end(history):
    return history.last.method.recommend(history.last.state).tobytes()


@pytest.mark.parametrize("each", [None, 7])
def test_a_step_is_a_batch(each):
    _, history = fitted(stream(batches=each))
    assert end(history) == by_hand().params.tobytes()
    assert history.forwards[-1] == 3 * 3 * SAMPLES
    assert history.reason == "finished 3 epochs"
    assert history.last.step == 21


def test_a_list_and_an_iterator():
    order = np.arange(SAMPLES)
    assert end(fitted(cut(order))[1]) == end(fitted(pg.BatchStream(lambda _: cut(order), SAMPLES))[1])
    once = pg.BatchStream(iter(cut(order)), SAMPLES)
    assert end(fitted(once, epochs=1)[1]) == end(fitted(cut(order), epochs=1)[1])
    with pytest.raises(InputError, match="an iterator, which lasts for one epoch"):
        fitted(pg.BatchStream(iter(cut(order)), SAMPLES), epochs=2)


@pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_data_loader(drop_last):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    def loader():
        data = TensorDataset(torch.tensor(X), torch.tensor(Y))
        chance = torch.Generator().manual_seed(3)
        return DataLoader(data, batch_size=SIZE, shuffle=True, drop_last=drop_last, generator=chance)

    net, history = fitted(loader(), epochs=40)
    assert history.forwards[-1] == 3 * 40 * (48 if drop_last else SAMPLES)
    assert (net.predict(X) == Y).mean() > 0.9
    assert end(fitted(loader(), epochs=40)[1]) == end(history)


def test_batches_of_any_size_and_weights():
    def uneven(_):
        for at, last in ((0, 1), (1, 30), (30, 50)):
            yield X[at:last], Y[at:last], np.full(last - at, 2.0)

    _, history = fitted(pg.BatchStream(uneven, SAMPLES), epochs=4)
    assert history.last.step == 12
    assert history.forwards[-1] == 3 * 4 * SAMPLES
    assert history.reason == "finished 4 epochs"


def test_records_have_the_running_figures_and_validation():
    _, history = fitted(stream(), validation=(X, Y), record_every=3 * SAMPLES)
    net = small(SAMPLES)[0]
    optimizer, losses = pg.optim.Adam(0.01), []
    state = optimizer.init(net.params)
    for inputs, labels in batches(0):
        loss, gradient = net.gradient(inputs, labels)
        losses.append(loss * len(inputs))
        optimizer.step(net.params, gradient, state)
    assert history.loss[1] == pytest.approx(sum(losses) / SAMPLES, rel=1e-6)
    assert 0 < history.metric[1] < 1
    assert history.validation_loss[1] == pytest.approx(net.loss(X, Y), rel=1e-6)


@pytest.mark.parametrize("each", [None, 7])
@pytest.mark.parametrize("stop", [1, 4, 7, 8, 17])
def test_a_run_resumes_at_its_batch(each, stop):
    optimizer = pg.optim.Adam(0.01)
    every = 3 * SIZE  # a record after each step
    expected = fitted(stream(), record_every=every)[1]
    read = []

    def watched(epoch):
        for number, item in enumerate(batches(epoch)):
            read.append((epoch, number))
            yield item

    def trainer(source):
        from popgrad.train.streaming import StreamObjective

        net = small(SAMPLES)[0]
        settings = {"epochs": 3, "batch_size": None, "record_every": every}
        return pg.Trainer(StreamObjective(net, source), optimizer, net.params, **settings)

    first = trainer(stream())
    for history in first:
        if len(history.loss) == stop + 1:
            break
    again = trainer(pg.BatchStream(watched, SAMPLES, each))
    again.load_state_dict(first.state_dict())
    read.clear()
    for _ in again:
        pass
    assert end(again.history) == end(expected)
    if each:
        assert min(read) >= (stop // each, 0)


def test_methods_that_use_a_batch_repeatedly():
    for method in (
        pg.optim.SAM(pg.optim.SGD(0.1)),
        pg.optim.LineSearch(pg.optim.SGD(0.1)),
        pg.optim.SophiaG(),
        pg.search.PSO(popsize=6),
    ):
        _, history = fitted(stream(), epochs=5, optimizer=method)
        assert history.loss[-1] < history.loss[0]


def test_a_checkpoint_of_a_stream(tmp_path):
    expected = fitted(stream(batches=7))[1]
    saves = pg.Checkpoint(tmp_path, every_steps=5)

    def stops(_):
        for number, item in enumerate(batches(1), 1):
            if number == 5:
                raise OSError("the disk is gone")
            yield item

    broken = pg.BatchStream(lambda epoch: stops(epoch) if epoch == 1 else batches(epoch), SAMPLES, 7)
    with pytest.raises(OSError, match="the disk is gone"):
        fitted(broken, checkpoint=saves)
    again = fitted(stream(batches=7), resume=tmp_path)[1]
    assert end(again) == end(expected)


# --- Bad streams ----------------------------------------------------------------------------------------------------


def changed(number, change):
    """A stream whose batch `number` (from 1) of each epoch is changed."""

    def source(epoch):
        items = list(batches(epoch))
        items[number - 1 : number] = change(items[number - 1])
        return iter(items)

    return pg.BatchStream(source, SAMPLES)


BAD = {
    "width": (lambda b: [(b[0][:, :3], b[1])], "X must have 4 columns, got 3"),
    "nan": (lambda b: [(b[0] * np.nan, b[1])], "X holds NaN"),
    "label": (lambda b: [(b[0], b[1] * 0 + 7)], "labels must be whole numbers in"),
    "text": (lambda b: [(b[0], np.array(["x"] * len(b[0])))], "label"),
    "other labels": (lambda b: [(np.repeat(X[:3], 2, 0), np.array([1, 2, 3] * 2))], "the labels are not 0 to K - 1"),
    "length": (lambda b: [(b[0], b[1][:2])], "y must have one entry per row of X"),
    "no pair": (lambda b: [b[0]], "a batch must be .X, y. or .X, y, sample_weight., got ndarray"),
    "four": (lambda b: [(*b, 1, 2)], "got 4 items"),
    "empty": (lambda b: [(b[0][:0], b[1][:0])], "X has no rows"),
    "text X": (lambda b: [(np.array([["a"] * 4]), b[1][:1])], "X must be real numbers"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("number", [1, 4])
def test_a_bad_batch_is_named(kind, number):
    change, message = BAD[kind]
    with pytest.raises(InputError, match=rf"^\[fit, batch {number} of epoch 1\] .*{message}"):
        fitted(changed(number, change))


def test_an_epoch_of_another_length():
    with pytest.raises(InputError, match=r"batch 7 of epoch 1\] the source ended after 6 batches with 48 samples"):
        fitted(changed(7, lambda _: []))
    with pytest.raises(InputError, match=r"batch 4 of epoch 1\] got 54 samples up to this batch, more than the 50"):
        fitted(changed(1, lambda b: [(X[:30], Y[:30])]))
    with pytest.raises(InputError, match="the source returned no batch in epoch 1"):
        fitted(pg.BatchStream(lambda _: iter(()), SAMPLES))

    def shorter(epoch):
        return iter(list(batches(epoch))[: 7 - 3 * epoch])

    with pytest.raises(InputError, match=r"batch 5 of epoch 2\] the source ended after 4 batches with 32 samples"):
        fitted(pg.BatchStream(shorter, SAMPLES))


def test_bad_arguments():
    for settings, name in (
        ({"batch_size": 5}, "batch_size"),
        ({"sample_weight": np.ones(SAMPLES)}, "sample_weight"),
        ({"racing": pg.Racing()}, "racing"),
        ({"record": "full"}, "record"),
    ):
        with pytest.raises(InputError, match=f"{name} needs all samples as X and y"):
            fitted(stream(), **settings)
    with pytest.raises(InputError, match=re.escape("validation must be (X, y)")):
        fitted(stream(), validation=0.2)
    for source in (X, None, 5, "X.npy", iter(cut(np.arange(SAMPLES)))):
        with pytest.raises(InputError, match="without y, expects batches"):
            fitted(source)
    with pytest.raises(InputError, match="a batch must be"):
        fitted([1, 2])
    with pytest.raises(InputError, match="source must be a function of the epoch or an iterable"):
        pg.BatchStream(5, 3)
    with pytest.raises(InputError, match="samples must be given"):
        pg.BatchStream(batches)
    with pytest.raises(InputError, match="samples must be a whole number"):
        pg.BatchStream(batches, 0)


# --- From arrays ----------------------------------------------------------------------------------------------------


def test_blocks_hold_every_row_once():
    numbers = np.arange(1000)
    wide = np.repeat(numbers[:, None], 4, axis=1).astype(np.float32)
    found = pg.BatchStream.from_arrays(wide, numbers, batch_size=32, seed=1, block=16 * 50, window=3)
    assert (found.samples, found.batches) == (1000, 32)
    orders = []
    for epoch in (0, 1, 0):
        items = list(found.epoch(epoch))
        assert [len(y) for _, y in items] == [32] * 31 + [8]
        assert all((x[:, 0] == y).all() for x, y in items)
        orders.append(np.concatenate([y for _, y in items]).tolist())
        assert sorted(orders[-1]) == numbers.tolist()
        assert len({y // 50 for y in items[0][1]}) == 3  # a batch mixes the blocks of a window
    assert orders[0] == orders[2] != orders[1]


def test_blocks_of_some_rows_are_transformed():
    numbers, rows = np.arange(300), np.arange(300) % 3 > 0
    wide = numbers[:, None].astype(np.float32)
    found = pg.BatchStream.from_arrays(wide, numbers, rows=rows, transform=lambda x: x * 2, block=40, window=2)
    items = list(found.epoch(0))
    assert found.samples == 200
    assert sorted(np.concatenate([y for _, y in items])) == numbers[rows].tolist()
    assert all((x[:, 0] == 2 * y).all() for x, y in items)
    with pytest.raises(InputError, match="with N entries in y and rows"):
        pg.BatchStream.from_arrays(wide, numbers[:5])
