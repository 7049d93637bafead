"""Callbacks of pg.fit: which hooks are called when, what they may do, early stopping and the log."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import popgrad as pg
from fitting import bits, small
from popgrad import optim, search
from saving import Kill, Killed

HOOKS = [name for name in vars(pg.Callback) if name.startswith("on_")]
STEP_HOOKS = [name for name in HOOKS if "batch" in name or "grad" in name or "generation" in name]
CHEAP = [name for name in HOOKS if name not in STEP_HOOKS]
ADAM = {"optimizer": optim.Adam(0.01), "batch_size": 8, "epochs": 2}  # three batches an epoch
PSO = {"optimizer": search.PSO(12), "batch_size": 8, "budget": pg.Budget(evaluations=60)}


def hook(names, function):
    """A callback that overrides the named hooks by function(name, run)."""

    def method(name):
        return lambda self, run: function(name, run)

    return type("Some", (pg.Callback,), {name: method(name) for name in names})()


def fit(callbacks=(), **chosen):
    model, X, y = small()
    history = pg.fit(model, X, y, **{**ADAM, **chosen}, callbacks=callbacks)
    return history, model


def events(names=HOOKS, **chosen):
    """(hook, steps, epochs) of every call."""
    seen = []
    fit(hook(names, lambda name, run: seen.append((name.removeprefix("on_"), run.step, run.epoch))), **chosen)
    return seen


# --- When ---------------------------------------------------------------------------------------------------------


def test_the_order_of_all_hooks():
    expected = [("train_begin", 0, 0), ("record", 0, 0), ("epoch_begin", 0, 0)]
    for epoch in (0, 1):
        for step in range(3 * epoch + 1, 3 * epoch + 4):
            done = step // 3
            expected += [("batch_begin", step - 1, epoch), ("grad_computed", step - 1, epoch)]
            expected += [("record", step, done)] if step % 3 == 0 else []
            expected += [("batch_end", step, done)]
        expected += [("epoch_end", 3 * epoch + 3, epoch + 1)]
        expected += [("epoch_begin", 3, 1)] if epoch == 0 else []
    assert events() == [*expected, ("train_end", 6, 2)]


def test_the_order_of_the_hooks_of_a_search():
    seen = events(**PSO, epochs=None, record_every=10**6)
    step = [("generation_begin", 0), ("batch_begin", 0), ("batch_end", 1), ("generation_end", 1)]
    expected = [("train_begin", 0), ("record", 0), ("epoch_begin", 0), *step]
    assert [event[:2] for event in seen[: len(expected)]] == expected
    assert [event for event in seen if event[0].startswith("epoch")] == [
        ("epoch_begin", 0, 0),
        ("epoch_end", 3, 1),
        ("epoch_begin", 3, 1),
    ]
    assert seen[-4:] == [("batch_end", 5, 1), ("generation_end", 5, 1), ("record", 5, 1), ("train_end", 5, 1)]


def test_an_epoch_of_a_search_on_all_samples_is_a_generation():
    seen = events(["on_epoch_end"], **(PSO | {"batch_size": None}), epochs=None)
    assert seen == [("epoch_end", step, step) for step in range(1, 6)]


def test_hooks_of_generations_are_for_searches():
    assert events(["on_generation_begin", "on_generation_end"]) == []


def test_several_gradients_a_step():
    seen = events(["on_grad_computed"], optimizer=optim.SAM(optim.SGD(0.1)), epochs=4)
    assert [step for _, step, _ in seen] == [step for step in range(6) for _ in range(2)]


@pytest.mark.parametrize("chosen", [ADAM, PSO | {"epochs": None}], ids=["Adam", "PSO"])
@pytest.mark.parametrize("names", [HOOKS, CHEAP, STEP_HOOKS], ids=["all", "cheap", "steps"])
def test_hooks_change_no_bit(chosen, names):
    quiet, model = fit(**chosen, validation=0.2, record_every=50)
    history, watched = fit(hook(names, lambda name, run: 0), **chosen, validation=0.2, record_every=50)
    assert bits(history) == bits(quiet)
    assert watched.params.tobytes() == model.params.tobytes()


@pytest.mark.parametrize("name", HOOKS)
def test_only_hooks_of_steps_go_through_python(name):
    seen = []
    model, X, y = small()

    class Look(pg.Callback):
        def on_record(self, run):
            seen.append((run.trainer.before_step is None, type(run.trainer.objective.inner).__name__))

    other = hook([name] if name != "on_record" else [], lambda name, run: None)
    pg.fit(model, X, y, **ADAM, callbacks=[Look(), other])
    assert {plain for plain, _ in seen} == {name not in STEP_HOOKS or "generation" in name}  # this is no search
    assert {kind for _, kind in seen} == {"_Watched" if name == "on_grad_computed" else "NetworkObjective"}


def test_nothing_pauses_without_callbacks():
    pauses = []
    fit([lambda model, history: None])
    fit(hook(["on_record"], lambda name, run: pauses.append(run.trainer.pauses)), progress=False)
    assert set(pauses) == {None}


# --- What they see ------------------------------------------------------------------------------------------------


def test_hooks_see_the_current_parameters():
    seen = []

    def look(name, run):
        current = run.trainer.method.recommend(run.trainer.state)
        seen.append(run.model.params.tobytes() == current.tobytes())

    names = [name for name in HOOKS if name != "on_train_end"]
    fit(hook(names, look), optimizer=optim.Adam(0.05, ema_decay=0.9))
    assert all(seen)


def test_the_end_of_training_has_the_best_parameters():
    seen = []
    history, _ = fit(hook(["on_train_end"], lambda name, run: seen.append((run.model.params.copy(), run.history))))
    np.testing.assert_array_equal(seen[0][0], history.best_params)
    assert seen[0][1].reason == history.reason == "finished 2 epochs"


def test_gradients_are_those_of_the_batch():
    model, X, y = small()
    checked = []

    def check(name, run):
        rows = run.batch.rows
        loss, gradient = run.model.gradient(X[rows], y[rows])
        np.testing.assert_allclose(run.gradient, gradient, atol=1e-6)
        assert run.loss == pytest.approx(loss, rel=1e-5)
        checked.append(run.batch.step)

    pg.fit(model, X, y, **ADAM, callbacks=hook(["on_grad_computed"], check))
    assert checked == [1, 2, 3, 4, 5, 6]


def test_a_gradient_may_be_changed():
    def halve(name, run):
        run.gradient *= 0.5

    _, halved = fit(hook(["on_grad_computed"], halve), optimizer=optim.SGD(0.2))
    _, model = fit(optimizer=optim.SGD(0.1))
    np.testing.assert_allclose(halved.params, model.params, rtol=1e-5)


@pytest.mark.parametrize(("name", "every"), [("on_batch_end", 1), ("on_epoch_end", 3)])
def test_a_run_continues_from_changed_parameters(name, every):
    def project(name, run):
        run.model.params = np.clip(run.model.params, -0.2, 0.2)

    history, _ = fit(hook([name], project), optimizer=optim.SGD(0.5))
    model, X, y = small()
    trainer = pg.Trainer(model.objective(X, y), optim.SGD(0.5), model.params, epochs=2, batch_size=8)
    w, gradient = model.params.copy(), np.empty_like(model.params)
    for step in range(1, 7):
        trainer.objective.gradient(w, trainer.batches.at(step), gradient)
        w -= np.float32(0.5) * gradient
        if step % every == 0:
            w = np.clip(w, -0.2, 0.2)
    np.testing.assert_allclose(history.last.state.w, w, rtol=1e-5, atol=1e-6)
    assert history.loss[-1] == pytest.approx(model.evaluate(w[None], X, y)[0], rel=1e-5)  # recorded as changed


def test_a_search_warns_once_that_it_ignores_a_change():
    def change(name, run):
        run.model.params = run.model.params * 0.5

    with pytest.warns(UserWarning, match=r"a callback changed model.params; a search continues") as caught:
        history, _ = fit(hook(["on_generation_end"], change), **PSO, epochs=None)
    assert len(caught) == 1
    assert bits(history) == bits(fit(**PSO, epochs=None)[0])


# --- How they end a run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("on_train_begin", 0),
        ("on_record", 0),
        ("on_epoch_begin", 0),
        ("on_batch_begin", 0),
        ("on_grad_computed", 1),
        ("on_batch_end", 1),
        ("on_epoch_end", 3),
    ],
)
@pytest.mark.parametrize("answer", [True, np.True_])
def test_true_ends_the_run(name, steps, answer):
    ended = []
    history, model = fit([hook([name], lambda name, run: answer), hook(["on_train_end"], lambda n, r: ended.append(1))])
    assert history.reason == "a callback ended the run"
    assert history.forwards[-1] == 3 * min(8 * steps, 20)
    assert ended == [1]
    np.testing.assert_array_equal(model.params, history.best_params)


@pytest.mark.parametrize(("name", "steps"), [("on_generation_begin", 0), ("on_generation_end", 1)])
def test_true_ends_a_search(name, steps):
    history, _ = fit(hook([name], lambda name, run: True), **PSO, epochs=None)
    assert (history.reason, history.evaluations[-1]) == ("a callback ended the run", 12 * steps)


@pytest.mark.parametrize("answer", [1, "yes", np.ones(1), None])
def test_other_answers_mean_nothing(answer):
    assert fit(hook(HOOKS, lambda name, run: answer))[0].reason == "finished 2 epochs"


def test_every_callback_is_called_in_order():
    seen = []
    calls = [hook(["on_record"], lambda name, run, k=k: seen.append(k) or True) for k in range(3)]
    fit([calls[0], lambda model, history: seen.append("function"), *calls[1:]])
    assert seen == [0, "function", 1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_end_of_training_is_called_after_an_exception(error):
    seen = []

    def act(name, run):
        seen.append(name)
        if name == "on_batch_end":
            raise error

    with pytest.raises(error):
        fit(hook(["on_batch_end", "on_train_end"], act))
    assert seen == ["on_batch_end", "on_train_end"]


def test_a_class_is_no_callback():
    with pytest.raises(pg.InputError, match=r"callbacks must be pg.Callback or functions of .*, got <class"):
        fit([pg.EarlyStopping])


# --- A run that resumes -------------------------------------------------------------------------------------------


def test_a_resumed_run_begins_in_its_epoch(tmp_path):
    model, X, y = small()
    saves = {"checkpoint": pg.Checkpoint(tmp_path, every_seconds=None, every_steps=1), "resume": tmp_path}
    with pytest.raises(Killed):
        pg.fit(model, X, y, **ADAM, **saves, callbacks=Kill(5))  # the checkpoint of step 4 is the last one
    seen = []
    watch = hook(CHEAP, lambda name, run: seen.append((name.removeprefix("on_"), run.step, len(run.history.loss))))
    pg.fit(model, X, y, **ADAM, **saves, callbacks=watch)
    assert seen == [
        ("train_begin", 4, 2),
        ("epoch_begin", 4, 2),
        ("record", 6, 3),
        ("epoch_end", 6, 3),
        ("train_end", 6, 3),
    ]


# --- Early stopping -----------------------------------------------------------------------------------------------


def losses_until(values, stopping):
    """How many of the given records a run takes, by a callback that puts them in place of the true ones."""

    def put(name, run):
        run.history.objective[-1] = values[len(run.history.objective) - 1]

    history, _ = fit([hook(["on_record"], put), stopping], optimizer=optim.SGD(1e-9), epochs=len(values) - 1)
    return len(history.loss), history.reason


@pytest.mark.parametrize(
    ("chosen", "values", "records"),
    [
        ({"patience": 2}, [5, 4, 3, 3, 3, 2, 1], 5),
        ({"patience": 3}, [5, 4, 3, 3, 3, 2, 1], 7),
        ({"patience": 1}, [5, 6, 1], 2),
        ({"patience": 2, "min_delta": 0.5}, [5, 4.6, 4.4, 4.2, 4.0, 1], 5),
        ({"patience": 2}, [5, math.nan, 4, math.nan, math.nan, 1], 5),
    ],
)
def test_patience_is_a_number_of_records(chosen, values, records):
    count, reason = losses_until(values, pg.EarlyStopping(**chosen))
    assert count == records
    if records < len(values):
        assert reason == f"objective has not improved in {chosen['patience']} records"


def test_early_stopping_of_a_real_run(tmp_path):
    stopping = {"callbacks": pg.EarlyStopping(3, monitor="validation_loss"), "validation": 0.4, "epochs": 200}
    stopping["optimizer"] = optim.SGD(3.0)
    history, model = fit(**stopping)
    best = int(np.argmin(history.validation_loss))
    assert len(history.loss) == best + 4 < 201
    assert history.best == best
    np.testing.assert_array_equal(model.params, history.best_params)
    saves = {"checkpoint": pg.Checkpoint(tmp_path, every_seconds=None, every_steps=4), "resume": tmp_path}
    with pytest.raises(Killed):
        fit(**{**stopping, "callbacks": [stopping["callbacks"], Kill(5)]}, **saves)
    for _ in range(2):  # the second one continues from the end
        assert bits(fit(**stopping, **saves)[0]) == bits(history)


def test_the_last_parameters_may_be_kept():
    chosen = {"optimizer": optim.SGD(3.0), "epochs": 30, "validation": 0.4}
    history, best = fit(pg.EarlyStopping(3), **chosen)
    again, last = fit(pg.EarlyStopping(3, restore_best=False), **chosen)
    assert bits(again) == bits(history)
    assert history.best < len(history.loss) - 1
    np.testing.assert_array_equal(best.params, history.best_params)
    np.testing.assert_array_equal(last.params, history.last.state.w)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"patience": 0}, r"\[EarlyStopping\] patience must be a whole number >= 1, got 0"),
        ({"min_delta": -1}, "min_delta must be a finite number >= 0, got -1"),
        ({"min_delta": math.nan}, "min_delta must be"),
        ({"monitor": "val_loss"}, "unknown monitor 'val_loss'. Did you mean 'validation_loss'"),
    ],
)
def test_settings_of_early_stopping_are_checked(chosen, message):
    with pytest.raises(pg.InputError, match=message):
        pg.EarlyStopping(**chosen)


def test_a_monitor_needs_validation_samples():
    with pytest.raises(pg.InputError, match=r"monitor='validation_loss' needs validation samples"):
        fit(pg.EarlyStopping(monitor="validation_loss"))


# --- The log ------------------------------------------------------------------------------------------------------


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(history):
    names = ("forwards", "evaluations", "seconds", "loss", "metric", "objective")
    names += ("validation_loss", "validation_metric")
    columns = {name: getattr(history, name) for name in names if getattr(history, name)}
    return [{"record": k, **{name: column[k] for name, column in columns.items()}} for k in range(len(history.loss))]


@pytest.mark.parametrize("validation", [None, 0.2])
def test_the_log_has_a_line_for_each_record(validation, tmp_path):
    counts = []
    watch = hook(["on_record"], lambda name, run: counts.append(len(lines(tmp_path / "log"))))
    history, _ = fit([pg.JSONLog(tmp_path / "log"), watch], validation=validation)
    assert lines(tmp_path / "log") == rows(history)
    assert counts == [1, 2, 3]  # each line is there at once
    again, _ = fit(pg.JSONLog(str(tmp_path / "log")), validation=validation)
    assert lines(tmp_path / "log") == rows(history) + rows(again)


def test_a_resumed_run_continues_its_log(tmp_path):
    log, saves = tmp_path / "log", {"checkpoint": pg.Checkpoint(tmp_path / "c", every_seconds=None, every_steps=4)}
    other, _ = fit(pg.JSONLog(log))  # an earlier run
    with pytest.raises(Killed):
        fit([pg.JSONLog(log), Kill(19)], epochs=9, **saves)
    assert [line["record"] for line in lines(log)] == [0, 1, 2, *range(7)]
    log.write_bytes(log.read_bytes() + b'{"record": 7, "loss": 0.')  # a line that the kill tore
    history, _ = fit(pg.JSONLog(log), epochs=9, **saves, resume=tmp_path / "c")
    assert lines(log) == rows(other) + rows(history)
    log.unlink()
    history, _ = fit(pg.JSONLog(log), epochs=9, **saves, resume=tmp_path / "c")
    assert lines(log) == rows(history)


def test_the_log_has_records_as_callbacks_changed_them(tmp_path):
    def project(model, history):
        model.params = np.clip(model.params, -0.2, 0.2)

    history, _ = fit([project, pg.JSONLog(tmp_path / "log")])
    assert lines(tmp_path / "log") == rows(history)
    other, _ = fit([lambda model, history: None, project])
    assert bits(history) == bits(other)


def test_values_that_are_not_finite_are_null(tmp_path):
    history, _ = fit(pg.JSONLog(tmp_path / "log"), optimizer=optim.SGD(3e38))
    assert not np.isfinite(history.loss[-1])
    assert lines(tmp_path / "log")[-1]["loss"] is None


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(pg.InputError, match=r"cannot write '.*gone/log': No such file"):
        fit(pg.JSONLog(tmp_path / "gone" / "log"))
    with pytest.raises(pg.InputError, match=r"\[JSONLog\] path must be the name of a file, got 3"):
        pg.JSONLog(3)
    (tmp_path / "below").mkdir()

    def remove(name, run):
        (tmp_path / "below" / "log").unlink(missing_ok=True)
        if (tmp_path / "below").exists():
            (tmp_path / "below").rmdir()

    with pytest.warns(UserWarning, match=r"\[JSONLog\] cannot write '.*log': No such file") as caught:
        history, _ = fit([hook(["on_record"], remove), pg.JSONLog(tmp_path / "below" / "log")])
    assert len(caught) == 1
    assert history.reason == "finished 2 epochs"
