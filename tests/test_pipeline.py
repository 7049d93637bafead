"""`pg.Pipeline`: what a trained network predicts from raw tables, in the process and from its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import popgrad as pg
from popgrad import checkpoint, data
from popgrad.checks import InputError
from tables import table, write


def trained(dataset: data.Dataset, epochs: int = 1) -> tuple[pg.Pipeline, data.Split]:
    split = data.split(dataset, seed=0)
    classes = len(dataset.classes)
    loss = "cross_entropy" if classes else "mse"
    model = pg.MLP([split.X_train.shape[1], 5, classes or 1], loss=loss, seed=0)
    pg.fit(model, split.X_train, split.y_train, optimizer=pg.optim.Adam(0.01), epochs=epochs, seed=0)
    return pg.Pipeline(split.preprocessing, model), split


def raw(dataset: data.Dataset) -> pd.DataFrame:
    return dataset.frame if dataset.aside is None else pd.concat([dataset.frame, dataset.aside], axis=1)


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[pg.Pipeline, Path]:
    """A pipeline trained on the table of mixed types, as a CSV file."""
    path = tmp_path / "mixed.csv"
    table(200).to_csv(path, index=False)
    return trained(data.load(path))[0], path


@pytest.mark.parametrize("name", data.NAMES)
def test_a_file_predicts_the_same_bits(name: str, tmp_path: Path) -> None:
    dataset = data.load(name)
    pipeline, split = trained(dataset)
    loaded = pg.load_pipeline(pipeline.save(tmp_path / "m.safetensors"))
    everything = loaded.prepare(raw(dataset)).X
    rows = {row.tobytes() for row in everything}
    assert all(row.tobytes() in rows for X in (split.X_train, split.X_val, split.X_test) for row in X)
    expected = pipeline.model.forward(everything)
    assert loaded.model.forward(everything).tobytes() == expected.tobytes()
    assert np.array_equal(loaded.predict(raw(dataset)), pipeline.predict(raw(dataset)))
    assert loaded.features == pipeline.features == tuple(dataset.frame)
    assert loaded.target == dataset.target
    if dataset.classes:
        proba = loaded.predict_proba(raw(dataset))
        assert proba.tobytes() == pipeline.predict_proba(raw(dataset)).tobytes()
        assert loaded.classes is not None
        assert np.array_equal(loaded.classes[proba.argmax(axis=1)], loaded.predict(raw(dataset)))


def test_a_bundled_name_is_a_table(tmp_path: Path) -> None:
    pipeline, _ = trained(data.load("iris"), epochs=60)
    found = pipeline.prepare("iris")
    assert found.y is not None
    assert found.y.tolist() == data.load("iris").y.tolist()
    assert (pipeline.predict("iris") == np.array(["setosa", "versicolor", "virginica"])[found.y]).mean() > 0.8


def test_order_and_further_columns_do_not_matter(mixed: tuple[pg.Pipeline, Path], tmp_path: Path) -> None:
    pipeline, path = mixed
    frame = table(200)
    expected = pipeline.prepare(path)
    assert expected.notes == ()
    assert expected.y is not None
    other = frame[["color", "constant", "age", "member"]].assign(more=1.5, name="x")
    for new in (other, write(tmp_path, other.to_csv(index=False), "new.csv")):
        found = pipeline.prepare(new)
        assert found.X.tobytes() == expected.X.tobytes()
        assert found.y is None
        assert found.notes == ("2 columns not used by the model: 'more', 'name'.",)


def test_values_that_training_lacks(mixed: tuple[pg.Pipeline, Path]) -> None:
    pipeline, _ = mixed
    frame = table(200).drop(columns="class").head(3)
    frame["color"] = ["pink", "red", "mauve"]
    frame["age"] = [np.nan, 1e9, 50]
    found = pipeline.prepare(frame)
    places = [pipeline.preprocessing.features.index(f"color_{name}") for name in ("red", "green", "blue")]
    assert found.X[:, places].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    (note,) = found.notes
    assert note.startswith("2 values in 'color' are not among the categories of the training rows, such as 'pink'")
    age = pipeline.preprocessing.features.index("age")
    scaling = pipeline.preprocessing.scaling
    assert found.X[0, age] == np.float32((scaling.fill[age] - scaling.center[age]) / scaling.scale[age])
    assert found.X[1, age] == np.float32((scaling.most[age] - scaling.center[age]) / scaling.scale[age])


def test_each_category_has_its_feature() -> None:
    random = np.random.default_rng(0)
    colors, sizes = random.choice(["red", "green", "blue"], 400), random.choice([f"s{i}" for i in range(40)], 400)
    frame = pd.DataFrame({"size": sizes, "number": np.arange(400.0), "color": colors})
    split = data.split(data.from_arrays("t", frame, np.arange(400) % 2))
    size, _, color = split.preprocessing.columns
    X = split.preprocessing.transform(frame)
    assert len(split.features) == 1 + 32 + 3
    assert len(size.rare) > 1
    for row, values in enumerate(X):
        expected = {f"color_{colors[row]}"}
        if sizes[row] in size.categories:
            expected.add(f"size_{sizes[row]}")
        elif sizes[row] in size.rare:
            expected.add("size_infrequent_sklearn")
        assert {name for name, value in zip(split.features[1:], values[1:], strict=True) if value} == expected
    assert color.categories == ("blue", "green", "red")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["age", "color"]), "lacks 2 columns of the training table: 'age', 'color'"),
        (
            lambda t: t.assign(age=["old"] * len(t)),
            "'age' must hold numbers, as in training, got 'old' in line 2",
        ),
        (lambda t: t.assign(age=["7"] + ["x"] * (len(t) - 1)), "in line 3 .and text in 198 other rows.: correct it"),
        (lambda t: t.assign(age=np.inf), "column 'age' of X has infinity"),
        (lambda t: t.assign(age="2020-01-02"), "column 'age' must hold numbers, as in training, got '2020-01-02'"),
        (lambda t: t.head(0), "expects rows of data, got none"),
        (lambda t: t.set_axis(["a", "b", "c", "d", "e"], axis=1), "the first row must hold the names of the columns"),
    ],
)
def test_another_table_is_refused(mixed: tuple[pg.Pipeline, Path], tmp_path: Path, change: Any, message: str) -> None:
    pipeline, _ = mixed
    path = write(tmp_path, change(table(200)).to_csv(index=False), "new.csv")
    with pytest.raises(InputError, match=rf"^\[predict '.*new.csv'\] .*{message}"):
        pipeline.predict(path)


@pytest.mark.parametrize(
    "labels", [["b", "a"], [3, 7], [True, False], [2**63 + 1, 2**63 + 2]], ids=["text", "whole", "boolean", "large"]
)
def test_labels_keep_their_type(labels: list[Any], tmp_path: Path) -> None:
    X = pd.DataFrame({"x": np.arange(60) % 2 + np.arange(60) / 1000})
    y = [labels[i % 2] for i in range(60)]
    pipeline, _ = trained(data.from_arrays("t", X, y), epochs=300)
    loaded = pg.load_pipeline(pipeline.save(tmp_path / "m.safetensors"))
    assert loaded.predict(X).tolist() == y
    assert type(loaded.predict(X).tolist()[0]) is type(y[0])
    found = loaded.prepare(X.assign(y=y))
    assert found.y is not None
    assert loaded.preprocessing.decode(found.y).tolist() == y


def test_a_quantity_is_in_its_units(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 90)
    pipeline, _ = trained(data.from_arrays("t", pd.DataFrame({"x": x}), 1e4 + 2e3 * x), epochs=400)
    loaded = pg.load_pipeline(pipeline.save(tmp_path / "m.safetensors"))
    predicted = loaded.predict(pd.DataFrame({"x": [0.5]}))
    assert predicted.dtype == np.float64
    assert abs(predicted[0] - 11_000) < 200
    assert loaded.classes is None
    with pytest.raises(InputError, match="predicts a quantity, 'y', which has no probabilities"):
        loaded.predict_proba(pd.DataFrame({"x": [0.5]}))


def test_a_file_without_names_goes_by_position(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(80, 3)), np.arange(80) % 2
    lines = [f"{label},{a:.6f},{b:.6f},{c:.6f}" for label, (a, b, c) in zip(y, X, strict=True)]
    pipeline, _ = trained(data.load(write(tmp_path, "\n".join(lines)), target="0", header=False))
    with_target = pipeline.prepare(write(tmp_path, "\n".join(lines[:1]), "one.csv"))
    without = pipeline.prepare(write(tmp_path, "\n".join(line.partition(",")[2] for line in lines[:1]), "new.csv"))
    assert with_target.y is not None
    assert with_target.X.tobytes() == without.X.tobytes()
    assert without.y is None


def test_dates_are_read_in_the_format_of_training(tmp_path: Path) -> None:
    days = pd.date_range("2020-01-01", periods=900)
    frame = pd.DataFrame({"when": days.strftime("%d/%m/%Y"), "y": np.arange(900) % 3})
    pipeline, _ = trained(data.load(write(tmp_path, frame.to_csv(index=False))))
    assert pipeline.preprocessing.columns[0].format == "%d/%m/%Y"
    assert pipeline.preprocessing.columns[0].cycles == ("year", "week")
    X = pipeline.prepare(write(tmp_path, "when\n02/01/2020\n", "new.csv")).X  # month first, if alone
    assert X.tobytes() == pipeline.prepare(pd.DataFrame({"when": [pd.Timestamp("2020-01-02")]})).X.tobytes()
    assert X.tobytes() == pipeline.prepare(pd.DataFrame({"when": ["2020-01-02"]})).X.tobytes()
    with pytest.raises(InputError, match=r"must hold dates in the format %d/%m/%Y .*got '31/31/2020' in line 2"):
        pipeline.predict(write(tmp_path, "when\n31/31/2020\n", "new.csv"))


def test_the_way_of_writing_is_kept(tmp_path: Path) -> None:
    rows = [f"{i},5;{'none' if i % 9 == 0 else f'{i % 4},25'};{'ab'[i % 2]}" for i in range(60)]
    text = "\n".join(["p;q;label", *rows])
    pipeline, _ = trained(data.load(write(tmp_path, text), decimal=",", na="none"))
    loaded = pg.load_pipeline(pipeline.save(tmp_path / "m.safetensors"))
    found = loaded.prepare(write(tmp_path, "q;p\nnone;1,5\n2,25;2,5\n", "new.csv"))
    expected = loaded.prepare(pd.DataFrame({"p": [1.5, 2.5], "q": [np.nan, 2.25]}))
    assert found.X.tobytes() == expected.X.tobytes()


# --- The file -------------------------------------------------------------------------------------------------------


def test_the_network_in_the_file_is_the_model(mixed: tuple[pg.Pipeline, Path], tmp_path: Path) -> None:
    pipeline, _ = mixed
    path = pipeline.save(tmp_path / "m.safetensors")
    assert pg.MLP.load(path).params.tobytes() == pipeline.model.params.tobytes()
    assert list(load_file(path)) == sorted(pipeline.model.views())  # as PyTorch's load_state_dict requires


def test_a_file_without_preprocessing(tmp_path: Path) -> None:
    path = pg.MLP([2, 2]).save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"holds no preprocessing: read it with popgrad.MLP.load"):
        pg.load_pipeline(path)


CHANGES = {
    "version": lambda d: d.update(version=99),
    "columns": lambda d: d.update(columns=[]),
    "kind": lambda d: d["columns"][0].update(kind="image"),
    "name": lambda d: d["columns"][0].update(name=3),
    "scaling": lambda d: d["scaling"]["fill"].pop(),
    "scale": lambda d: d["scaling"].update(scale="x"),
    "features": lambda d: d["features"].pop(),
    "classes": lambda d: d["classes"].pop(),
    "label_type": lambda d: d.update(label_type="integer"),
    "target": lambda d: d.pop("target"),
    "mean": lambda d: d.update(target_mean=float("nan")),
    "all": lambda d: d.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_preprocessing_is_refused(change: str, mixed: tuple[pg.Pipeline, Path], tmp_path: Path) -> None:
    pipeline, _ = mixed
    tensors, values = pipeline.model.contents()
    stored = json.loads(json.dumps(pipeline.preprocessing.to_dict()))
    CHANGES[change](stored)
    path = checkpoint.save(tmp_path / "m.safetensors", tensors, {**values, "preprocessing": stored})
    with pytest.raises(InputError, match=r"^\[load_pipeline '.*m.safetensors'\] "):
        pg.load_pipeline(path)


def test_a_model_that_does_not_fit() -> None:
    split = data.split(data.load("iris"))
    for model, message in (
        (pg.MLP([3, 3]), "makes 4 features, but the model has 3 inputs"),
        (pg.MLP([4, 2]), "2 outputs does not predict 3 classes"),
        (pg.MLP([4, 3], loss="mse"), "does not predict 3 classes"),
        (None, "expects a Preprocessing"),
    ):
        with pytest.raises(InputError, match=message):
            pg.Pipeline(split.preprocessing, model)  # type: ignore[arg-type]


# --- Random tables --------------------------------------------------------------------------------------------------

ROWS = 24
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
KINDS = {
    "numbers": st.one_of(st.none(), st.floats(-1e30, 1e30), st.integers(-(2**40), 2**40)),
    "text": st.one_of(st.none(), st.sampled_from(["a", "b", "missing", "É", '"', ","]), TEXT.map(lambda t: f"_{t}")),
    "booleans": st.one_of(st.none(), st.booleans()),
    "dates": st.one_of(st.none(), st.datetimes(pd.Timestamp("1980-01-01"), pd.Timestamp("2050-01-01"))),
    "duration": st.timedeltas(pd.Timedelta(0), pd.Timedelta(days=900)),
}


@st.composite
def frames(draw: Any) -> pd.DataFrame:
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5))
    columns = {"safe": np.arange(ROWS) * 0.5 + 0.25}
    for at, kind in enumerate(kinds):
        values = draw(st.lists(KINDS[kind], min_size=ROWS, max_size=ROWS))
        columns[f"{kind}_{at}"] = pd.Series(values, dtype="datetime64[us]" if kind == "dates" else object)
    return pd.DataFrame(columns)


@settings(max_examples=60, deadline=None)
@given(frames(), st.booleans())
def test_preprocessing_as_json_encodes_the_same_bits(frame: pd.DataFrame, classified: bool) -> None:
    y = np.arange(ROWS) % 3 if classified else np.sqrt(np.arange(ROWS))
    dataset = data.from_arrays("t", frame, y)
    split = data.split(dataset, 3)
    again = data.Preprocessing.from_dict(json.loads(json.dumps(split.preprocessing.to_dict())))
    assert again.to_dict() == split.preprocessing.to_dict()
    encoded = again.transform(frame.sample(frac=1, axis=1, random_state=0))
    rows = {row.tobytes() for row in encoded}
    parts = np.concatenate([split.X_train, split.X_val, split.X_test])
    assert encoded.shape == parts.shape
    assert all(row.tobytes() in rows for row in parts)
