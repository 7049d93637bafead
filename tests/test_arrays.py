"""What holds numbers: frames, columns, tensors, masked arrays and objects, wherever the package takes an array."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import popgrad as pg
from popgrad import arrays

X = np.array([[1.0, 0.5, 3.0], [0.0, 2.5, 1.0], [1.0, -1.0, 2.0], [0.0, 0.0, 4.0]])
Y = np.array([0, 1, 1, 0])


def pandas(kinds):
    """X as a frame; its columns of these types."""
    return pd.DataFrame({name: pd.Series(X[:, at]).astype(kind) for at, (name, kind) in enumerate(kinds.items())})


def from_polars():
    pl = pytest.importorskip("polars")
    return pl.DataFrame({"a": X[:, 0].astype(bool), "b": X[:, 1], "c": X[:, 2].astype(int)})


def from_arrow():
    pa = pytest.importorskip("pyarrow")
    return pa.table({"a": X[:, 0].astype(bool), "b": X[:, 1], "c": X[:, 2].astype(int)})


def arrow(name):
    pytest.importorskip("pyarrow")
    return f"{name}[pyarrow]"


def torch_tensor(**chosen):
    return pytest.importorskip("torch").tensor(X, **chosen)


SOURCES = {
    "bool_and_float": lambda: pandas({"a": bool, "b": float, "c": int}),
    "its_values": lambda: pandas({"a": bool, "b": float, "c": int}).to_numpy(),
    "nullable": lambda: pandas({"a": "boolean", "b": "Float64", "c": "Int64"}),
    "arrow_types": lambda: pandas({"a": arrow("bool"), "b": arrow("double"), "c": arrow("int64")}),
    "categories": lambda: pandas({"a": "category", "b": float, "c": "category"}),
    "same_names": lambda: pandas({"a": bool, "b": float, "c": int}).set_axis(["a", "a", "a"], axis=1),
    "objects": lambda: X.astype(object),
    "decimals": lambda: np.array([[Decimal(str(value)) for value in row] for row in X]),
    "polars": from_polars,
    "pyarrow": from_arrow,
    "tensor": torch_tensor,
    "tensor_with_gradient": lambda: torch_tensor(requires_grad=True),
    "tensor_with_history": lambda: torch_tensor(requires_grad=True) * 1,
    "tensor_bfloat16": lambda: torch_tensor(dtype=pytest.importorskip("torch").bfloat16, requires_grad=True),
    "nothing_masked": lambda: np.ma.array(X, mask=np.zeros_like(X)),
    "lists": X.tolist,
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_numbers_are_read_wherever_they_are_kept(source):
    model, given = pg.MLP([3, 4, 2], seed=1), source()
    expected = pg.MLP([3, 4, 2], seed=1)
    np.testing.assert_array_equal(model.forward(given), expected.forward(X))
    np.testing.assert_array_equal(model.predict(given), expected.predict(X))
    assert model.loss(given, Y) == expected.loss(X, Y)
    ours = pg.fit(model, given, Y, optimizer=pg.optim.SGD(), epochs=3, validation=(given, Y))
    theirs = pg.fit(expected, X, Y, optimizer=pg.optim.SGD(), epochs=3, validation=(X, Y))
    assert ours.loss == theirs.loss
    assert ours.validation_loss == theirs.validation_loss


@pytest.mark.parametrize("kind", ["Int64", "boolean", "Float64", "int64[pyarrow]", "bool[pyarrow]", "int8", "category"])
def test_a_column_is_a_target_and_a_weight(kind):
    if "pyarrow" in kind:
        pytest.importorskip("pyarrow")
    model, column = pg.MLP([3, 4, 2]), pd.Series([0, 1, 1, 0]).astype(kind)
    assert model.loss(X, column) == model.loss(X, Y) == model.loss(X, column.to_frame())
    assert model.loss(X, Y, sample_weight=column) == model.loss(X, Y, sample_weight=Y)


def test_a_polars_series_is_a_target():
    pl = pytest.importorskip("polars")
    model = pg.MLP([3, 4, 2])
    assert model.loss(X, pl.Series([0, 1, 1, 0])) == model.loss(X, Y)


def test_jax_arrays_of_bfloat16_are_read():
    ml_dtypes = pytest.importorskip("ml_dtypes")  # what JAX adds to NumPy
    np.testing.assert_array_equal(arrays.real("test", "X", X.astype(ml_dtypes.bfloat16)), X)


def test_whole_numbers_beyond_2_53_stay_apart():
    large = [2**60, 2**60 + 1]
    for given in (large, np.array(large, object), pd.Series(large), pd.Series(large, dtype="Int64")):
        assert arrays.real("test", "y", given).tolist() == large


MISSING = {
    "nullable": lambda: pandas({"a": "boolean", "b": "Float64", "c": "Int64"}).where(X < 2.5),
    "none": lambda: np.where(X < 2.5, X, None),
    "polars": lambda: pytest.importorskip("polars").DataFrame({"a": [True, None], "b": [1.0, 2.0], "c": [1, 2]}),
    "arrow": lambda: pytest.importorskip("pyarrow").table({"a": [True, False], "b": [1.0, None], "c": [1, 2]}),
}


@pytest.mark.parametrize("source", MISSING.values(), ids=MISSING)
def test_missing_values_are_nan(source):
    with pytest.raises(pg.InputError, match=r"\[MLP.forward\] X holds NaN.* impute or drop those rows first"):
        pg.MLP([3, 4, 2]).forward(source())


def text_frames():
    frame = pd.DataFrame({"age": [1.0, 2.0], "city": ["Bern", "Rome"], "rooms": [3, 4]})
    yield frame, "city"
    yield frame.assign(city=frame["city"].astype("category")), "city"
    yield frame.assign(city=pd.to_datetime(["2020-01-01", "2021-01-01"])), "city"
    yield frame.assign(city=[1, "x"]), "city"
    yield frame.set_axis([0, 1, 2], axis=1), 1


@pytest.mark.parametrize(("frame", "name"), list(text_frames()))
def test_a_column_that_holds_no_numbers_is_named(frame, name):
    message = rf"\[MLP.forward\] column {name!r} of X does not hold numbers; encode it, or .* popgrad.data"
    with pytest.raises(pg.InputError, match=message):
        pg.MLP([3, 4, 2]).forward(frame)


@pytest.mark.parametrize("module", ["polars", "pyarrow"])
def test_a_text_column_of_other_frames_is_named(module):
    library = pytest.importorskip(module)
    make = library.table if module == "pyarrow" else library.DataFrame
    with pytest.raises(pg.InputError, match=r"column 'city' of X does not hold numbers"):
        pg.MLP([2, 4, 2]).forward(make({"age": [1.0, 2.0], "city": ["Bern", "Rome"]}))


def masked(values, at=0):
    values = np.array(values)
    mask = np.zeros(values.shape, bool)
    mask.flat[at] = True
    return np.ma.array(values, mask=mask)


def told(fitness):
    """A run that is told this fitness of its two candidates."""
    run = pg.search.PSO(popsize=2).start(np.ones(3))
    run.ask()
    run.tell(fitness)
    return run


def takers():
    """Every argument that is an array: (call with a masked one, its name)."""
    model, weight, center = pg.MLP([3, 4, 2]), np.ones(4), np.ones(3)
    population = np.zeros((2, len(model.params)))
    sgd = pg.optim.SGD()
    noise = pg.Perturbations(center, 0.1, 2, 0)
    return {
        "X": lambda: model.forward(masked(X)),
        "y": lambda: model.loss(X, masked(Y)),
        "sample_weight": lambda: model.loss(X, Y, masked(weight)),
        "population": lambda: model.evaluate(masked(population), X, Y),
        "samples": lambda: model.evaluate(population, X, Y, samples=masked([0, 1])),
        "params": lambda: setattr(model, "params", masked(model.params)),
        "params of quantized": lambda: model.quantized(masked(model.params), "binary"),
        "center": lambda: pg.Perturbations(masked(center), 0.1, 2, 0),
        "weights": lambda: noise.combine(masked(np.ones(2))),
        "population of race": lambda: pg.race(model, masked(population), X, Y),
        "X of fit": lambda: pg.fit(model, masked(X), Y, optimizer=sgd),
        "y of fit": lambda: pg.fit(model, X, masked(Y), optimizer=sgd),
        "sample_weight of fit": lambda: pg.fit(model, X, Y, optimizer=sgd, sample_weight=masked(weight)),
        "X of validation": lambda: pg.fit(model, X, Y, optimizer=sgd, validation=(masked(X), Y)),
        "y of validation": lambda: pg.fit(model, X, Y, optimizer=sgd, validation=(X, masked(Y))),
        "fitness": lambda: told(masked([1.0, -999.0], at=1)),
        "fitness of a function": lambda: pg.minimize(
            lambda x: masked(-(x**2).sum(1)), np.ones(2), search=pg.search.DE(), budget=pg.Budget(evaluations=100)
        ),
        "x0": lambda: pg.search.PSO().start(masked(np.ones(2))),
        "the returned value": lambda: model.evaluate(population, X, Y, metric=lambda z, y: masked(np.ones(len(z)))),
    }


@pytest.mark.parametrize("name", takers())
def test_masked_entries_are_refused_everywhere(name):
    with pytest.raises(pg.InputError, match=rf"{name.partition(' of ')[0]} has 1 masked entries.*fill or drop them"):
        takers()[name]()


def test_tensors_elsewhere_are_refused():
    torch = pytest.importorskip("torch")
    model = pg.MLP([3, 4, 2])
    with pytest.raises(pg.InputError, match=r"\[MLP.forward\] X is on the device meta; move it with .cpu\(\)"):
        model.forward(torch.empty(4, 3, device="meta"))
    with pytest.raises(pg.InputError, match=r"\[MLP.forward\] X must be an array of real numbers: .*grad"):
        model.forward([torch.ones(3, requires_grad=True)] * 4)
    with pytest.raises(pg.InputError, match=r"X must be an array of real numbers: .*[Ss]parse"):
        model.forward(torch.eye(3).to_sparse())


def test_parameters_from_tensors():
    torch = pytest.importorskip("torch")
    model = pg.MLP([3, 4, 2])
    values = torch.arange(len(model.params), dtype=torch.float64, requires_grad=True)
    model.params = values
    np.testing.assert_array_equal(model.params, np.arange(len(model.params)))
    population = values.expand(2, -1)
    assert model.evaluate(population, X, Y).tolist() == [model.loss(X, Y)] * 2


def test_a_fitness_may_be_a_tensor():
    torch = pytest.importorskip("torch")
    model = pg.MLP([3, 4, 2])
    population = np.stack([model.params, 2 * model.params])
    values = model.evaluate(population, X, Y, metric=lambda z, y: torch.tensor(z, requires_grad=True).sum((1, 2)))
    assert np.isfinite(values).all()
    assert told(torch.tensor([2.0, 1.0], requires_grad=True)).best_f == 1
    assert told(pd.Series([2, 1], dtype="Int64")).best_f == 1
    start = torch.ones(2, requires_grad=True)
    found = pg.minimize(lambda x: (x**2).sum(1), start, search=pg.search.DE(), budget=pg.Budget(evaluations=100))
    assert found.x.dtype == np.float64


def test_a_masked_bound_is_refused():
    with pytest.raises(pg.InputError, match=r"\[PSO.start\] bounds must be"):
        pg.search.PSO().start(np.ones(2), bounds=(masked([0.0, 0.0]), 2.0))
