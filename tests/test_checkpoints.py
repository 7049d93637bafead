"""Checkpoints of pg.fit: the same bits after an interruption, the last good file, and refusals of other runs."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import popgrad as pg
from cases import OPTIMIZERS
from fitting import bits, small
from popgrad import checkpoint as files
from popgrad import optim, search
from saving import Kill, Killed, run, steps_of
from search_cases import SEARCHES
from variants import VARIANTS

METHODS = [
    *[case.optimizer for case in OPTIMIZERS + VARIANTS],
    optim.Lookahead(optim.Adam(0.01)),
    optim.Polyak(optim.ScheduleFreeAdamW(0.01)),
    optim.SAM(optim.NAdam(0.01, ema_decay=0.9)),
    optim.Adam(lambda t: 0.01 / t, state_dtype="bfloat16"),
    *[dataclasses.replace(case.search, popsize=12) for case in SEARCHES],
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.described())


# --- The same bits ------------------------------------------------------------------------------------------------


@every_method
def test_a_killed_run_continues_with_the_same_bits(method, tmp_path):
    """Killed twice, in mid-epoch, and continued with another number of threads."""
    epochs = 5 if method.kind == "gradient" else 60
    chosen = {"optimizer": method, "epochs": epochs, "budget": pg.Budget(evaluations=600)}
    quiet, model = run(**chosen)
    before = pg.get_num_threads()
    try:
        for threads, kill in ((1, 7), (3, 12)):
            pg.set_num_threads(threads)
            run(tmp_path, kill=kill, **chosen)
            assert steps_of(tmp_path)[-1] == kill // 3 * 3 - (kill % 3 == 0) * 3
        pg.set_num_threads(2)
        history, again = run(tmp_path, **chosen)
    finally:
        pg.set_num_threads(before)
    assert bits(history) == bits(quiet)
    assert again.params.tobytes() == model.params.tobytes()


@pytest.mark.parametrize(
    "chosen",
    [
        {"optimizer": search.PSO(12), "racing": pg.Racing(keep=0.5), "batch_size": 12},
        {"optimizer": search.OpenAIES(12, optimizer=optim.Adam(0.01)), "objective": "f1_macro", "select": "metric"},
        {"optimizer": search.DE(12), "sample_weight": np.arange(40) % 4, "batch_size": None},
        {"optimizer": optim.SophiaG(0.01), "record_every": 100},
    ],
    ids=["racing", "objective", "weights", "sampled"],
)
def test_options_of_fit(chosen, tmp_path):
    chosen = {"epochs": 60, "budget": pg.Budget(evaluations=300), **chosen}
    quiet, _ = run(**chosen)
    for kill in (4, 9, 13):
        run(tmp_path, kill=kill, every_steps=2, **chosen)
    assert bits(run(tmp_path, every_steps=2, **chosen)[0]) == bits(quiet)


def test_the_end_of_a_run_is_saved_and_more_epochs_continue_it(tmp_path):
    long, model = run(epochs=8, record_every=300)
    first, _ = run(tmp_path, epochs=5, record_every=300)
    assert steps_of(tmp_path) == [36, 39, 40]
    again, _ = run(tmp_path, epochs=5, record_every=300)
    assert bits(again) == bits(first)
    history, continued = run(tmp_path, epochs=8, record_every=300)
    assert continued.params.tobytes() == model.params.tobytes()
    assert history.loss[-1] == long.loss[-1]


def test_checkpoints_change_no_bit(tmp_path):
    quiet, _ = run()
    history, _ = run(tmp_path, every_steps=1)
    assert bits(history) == bits(quiet)


@pytest.mark.parametrize("method", [optim.Adam(0.01), search.PSO(12)], ids=lambda method: method.described())
def test_the_parameters_of_the_resuming_model_do_not_matter(method, tmp_path):
    chosen = {"optimizer": method, "budget": pg.Budget(evaluations=600), "epochs": 60}
    quiet, model = run(**chosen)
    run(tmp_path, kill=8, **chosen)
    other, _, _ = small(dropout=0.2)
    other.params = other.params + 1
    history, _ = run(tmp_path, model=other, **chosen)
    assert bits(history) == bits(quiet)
    assert other.params.tobytes() == model.params.tobytes()


def test_a_run_that_resumes_from_a_history_is_saved_too(tmp_path):
    model, X, y = small()
    chosen = {"optimizer": optim.Adam(0.01), "epochs": 4, "batch_size": 8}
    first = pg.fit(model, X, y, **chosen)
    last = model.params.copy()
    quiet = pg.fit(model, X, y, **chosen, resume=first)
    saves = pg.Checkpoint(tmp_path, every_seconds=None, every_steps=2)
    model.params = last
    with pytest.raises(Killed):
        pg.fit(model, X, y, **chosen, resume=first, checkpoint=saves, callbacks=Kill(18))
    assert steps_of(tmp_path) == [12, 14, 16]
    assert bits(pg.fit(model, X, y, **chosen, resume=tmp_path, checkpoint=saves)) == bits(quiet)


def test_a_search_that_resumes_from_a_history_is_not_saved(tmp_path):
    model, X, y = small()
    first = pg.fit(model, X, y, optimizer=search.PSO(12), epochs=20)
    with pytest.raises(pg.InputError, match=r"a search that resumes from a History cannot be saved"):
        pg.fit(model, X, y, optimizer=search.PSO(12), resume=first, checkpoint=pg.Checkpoint(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_run_that_broke_down_is_not_taken_further(tmp_path):
    chosen = {"optimizer": optim.SGD(3e38), "epochs": 3}
    first, _ = run(tmp_path, **chosen)
    assert "no longer finite" in first.reason
    again, _ = run(tmp_path, **chosen)
    assert bits(again) == bits(first)


def test_parameters_that_a_callback_changed_are_saved(tmp_path):
    def project(model, history):
        model.params = np.clip(model.params, -0.3, 0.3)

    model, X, y = small()
    chosen = {"optimizer": optim.Adam(0.05), "epochs": 4, "batch_size": 4}
    quiet = pg.fit(model, X, y, **chosen, callbacks=[project])
    saves = pg.Checkpoint(tmp_path, every_seconds=None, every_steps=5)  # the steps of an epoch
    with pytest.raises(Killed):
        pg.fit(small()[0], X, y, **chosen, callbacks=[project, Kill(12)], checkpoint=saves)
    history = pg.fit(small()[0], X, y, **chosen, callbacks=[project], checkpoint=saves, resume=tmp_path)
    assert bits(history) == bits(quiet)


# --- Which files there are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, None])
def test_the_newest_files_stay(keep, tmp_path):
    run(tmp_path, keep=keep)
    every = [*range(3, 40, 3), 40]
    assert steps_of(tmp_path) == (every if keep is None else every[-keep:])
    assert len(os.listdir(tmp_path)) == len(steps_of(tmp_path))


def test_older_files_go_only_after_the_newer_one_is_there(tmp_path, monkeypatch):
    seen, real = [], Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **given: (seen.append(steps_of(tmp_path)), real(path, **given)))
    run(tmp_path, keep=1, epochs=2)
    assert seen == [[3, 6], [6, 9], [9, 12], [12, 15], [15, 16]]


def test_checkpoints_by_time(tmp_path, monkeypatch):
    """A clock that runs one second a step."""
    clock = [0.0]
    monkeypatch.setattr("popgrad.train.checkpoints.time.monotonic", lambda: clock[0])

    class Tick(pg.Callback):
        def on_batch_end(self, run):
            clock[0] += 1.0

    model, X, y = small()
    saves = pg.Checkpoint(tmp_path, every_seconds=4, keep=None)
    pg.fit(model, X, y, optimizer=optim.SGD(), epochs=3, batch_size=4, callbacks=Tick(), checkpoint=saves)
    assert steps_of(tmp_path) == [4, 8, 12, 15]


def test_temporary_files_of_a_killed_run_are_removed(tmp_path):
    run(tmp_path, kill=7)
    (tmp_path / ".step-000000009.safetensors.0123456789abcdef0123456789abcdef").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", *(f"step-{step:09d}.safetensors" for step in (36, 39, 40))]


def test_a_checkpoint_is_arrays_and_numbers_of_a_safetensors_file(tmp_path):
    run(tmp_path, kill=8)
    arrays, numbers = files.load(tmp_path / "step-000000006.safetensors", checksum=True)
    assert numbers["step"] == 6
    assert {"start", "state.method.w", "state.method.optimizer.slots", "state.records.loss"} <= set(arrays)
    assert numbers["fingerprint"]["method"] == "Adam"


def test_a_folder_without_checkpoints(tmp_path):
    model, X, y = small()
    chosen = {"optimizer": optim.SGD(), "epochs": 1}
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(
            pg.InputError, match=r"\[fit\] resume must be a checkpoint or a folder .*, but '.*' holds none"
        ):
            pg.fit(model, X, y, **chosen, resume=path)
        with pytest.raises(pg.InputError, match="holds none"):
            pg.fit(model, X, y, **chosen, resume=path, checkpoint=pg.Checkpoint(tmp_path / "other"))
    assert not (tmp_path / "gone").exists()
    pg.fit(model, X, y, **chosen, resume=str(tmp_path / "new"), checkpoint=pg.Checkpoint(tmp_path / "new"))
    assert steps_of(tmp_path / "new") == [1]


def test_one_file_may_be_resumed(tmp_path):
    quiet, _ = run(tmp_path / "a", keep=None)
    model, X, y = small(samples=40, dropout=0.2)
    chosen = {"optimizer": optim.Adam(0.01), "epochs": 5, "batch_size": 4, "validation": 0.2, "seed": 3}
    path = tmp_path / "a" / "step-000000009.safetensors"
    history = pg.fit(model, X, y, **chosen, resume=path, checkpoint=pg.Checkpoint(tmp_path / "b"))
    assert bits(history) == bits(quiet)
    with pytest.raises(pg.InputError, match=r"step-000000040.safetensors' is later than 'step-000000009.safetensors'"):
        pg.fit(model, X, y, **chosen, resume=path, checkpoint=pg.Checkpoint(tmp_path / "a"))


def test_a_folder_of_an_earlier_run_is_not_overwritten(tmp_path):
    run(tmp_path, epochs=1)
    before = steps_of(tmp_path)
    with pytest.raises(pg.InputError, match="holds checkpoints of an earlier run; pass resume="):
        run(tmp_path, resume=False)
    assert steps_of(tmp_path) == before


def test_two_runs_do_not_share_a_folder(tmp_path):
    model, X, y = small()
    chosen = {"optimizer": optim.SGD(), "epochs": 1, "checkpoint": pg.Checkpoint(tmp_path), "resume": tmp_path}
    with pytest.raises(pg.InputError, match="another run is writing checkpoints to"):
        pg.fit(model, X, y, **chosen, callbacks=lambda m, h: pg.fit(small()[0], X, y, **chosen) and None)
    pg.fit(model, X, y, **chosen)  # the lock ends with the run


def test_a_child_of_a_killed_run_does_not_keep_the_folder_locked(tmp_path):
    """The child is forked in the middle of the run, and lives on."""
    code = f"""
import os, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import popgrad as pg
from fitting import small
model, X, y = small()

def fork(model, history):
    if len(history.loss) == 3:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

saves = pg.Checkpoint({str(tmp_path)!r}, every_steps=1)
pg.fit(model, X, y, optimizer=pg.optim.SGD(), epochs=5, callbacks=fork, checkpoint=saves)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    try:
        assert process.wait() == -signal.SIGKILL
        os.kill(child, 0)  # it lives
        model, X, y = small()
        pg.fit(model, X, y, optimizer=optim.SGD(), epochs=5, resume=tmp_path, checkpoint=pg.Checkpoint(tmp_path))
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()
    assert steps_of(tmp_path)[-1] == 5


# --- Damage -------------------------------------------------------------------------------------------------------


def flip(path, place=-20):
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)


DAMAGE = {
    "flipped": flip,
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "no_checksum": lambda path: files.save(path, *files.load(path)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("keep", [1, 3])
def test_a_damaged_file_is_skipped_and_the_last_good_one_is_found(damage, keep, tmp_path):
    quiet, _ = run()
    run(tmp_path, kill=14)
    damage(tmp_path / "step-000000012.safetensors")
    with pytest.warns(UserWarning, match=r"skipped damaged checkpoints: '.*step-000000012.safetensors'; .*000009") as w:
        run(tmp_path, kill=11, keep=keep)
    assert len(w) == 1
    assert steps_of(tmp_path)[-1] == 12  # nothing new is there yet, so nothing was removed
    with pytest.warns(UserWarning, match="skipped damaged"):
        history, _ = run(tmp_path, every_steps=7, keep=keep)  # 12 is no multiple
    assert bits(history) == bits(quiet)
    assert steps_of(tmp_path) == [28, 35, 40][-keep:]
    for step in steps_of(tmp_path):
        files.load(tmp_path / f"step-{step:09d}.safetensors", checksum=True)


def test_where_no_file_is_complete(tmp_path):
    run(tmp_path, kill=8)
    for step in steps_of(tmp_path):
        flip(tmp_path / f"step-{step:09d}.safetensors")
    with pytest.raises(pg.InputError, match=r"no checkpoint in '.*' is complete; the newest: .*step-000000006"):
        run(tmp_path)
    model, X, y = small()
    with pytest.raises(pg.InputError, match="its checksum does not fit its content"):
        pg.fit(model, X, y, optimizer=optim.SGD(), resume=tmp_path / "step-000000006.safetensors")


def test_a_file_of_another_kind(tmp_path):
    path = files.save(tmp_path / "a", {"x": np.zeros(3)}, {"n": 1}, checksum=True)
    model, X, y = small()
    with pytest.raises(pg.InputError, match=r"is not a checkpoint of popgrad\.fit"):
        pg.fit(model, X, y, optimizer=optim.SGD(), resume=path)


# --- A disk that is full ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_training_goes_on_when_a_checkpoint_cannot_be_written(stage, tmp_path, monkeypatch):
    quiet, _ = run()
    run(tmp_path, kill=8)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if stage == "write":
        real = os.fdopen

        def opened(*given):
            file = real(*given)

            class Full:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

                write = full

            return Full()

        monkeypatch.setattr(os, "fdopen", opened)
    else:
        monkeypatch.setattr(os, stage, full)
    with pytest.warns(UserWarning, match="a checkpoint is missing, and training continues: .*No space left") as caught:
        history, _ = run(tmp_path)
    assert len(caught) == 1
    assert bits(history) == bits(quiet)
    assert sorted(os.listdir(tmp_path)) == ["step-000000003.safetensors", "step-000000006.safetensors"]
    monkeypatch.undo()
    history, _ = run(tmp_path)
    assert bits(history) == bits(quiet)


def test_a_limit_of_the_system_is_no_end_of_training(tmp_path):
    """In a process that may write files of 1 kB only, as on a full disk."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import popgrad as pg
from fitting import small
model, X, y = small()
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
saves = pg.Checkpoint({str(tmp_path)!r}, every_steps=2)
history = pg.fit(model, X, y, optimizer=pg.optim.Adam(), epochs=3, batch_size=4, checkpoint=saves)
print(history.reason)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "finished 3 epochs\n"
    assert done.stderr.count("UserWarning: [fit] a checkpoint is missing, and training continues") == 1
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_error_before_the_run(tmp_path):
    (tmp_path / "file").write_text("x")
    calls = []
    model, X, y = small()
    saves = pg.Checkpoint(tmp_path / "file" / "below")
    with pytest.raises(pg.InputError, match=r"\[fit\] cannot write checkpoints to '.*below': Not a directory"):
        pg.fit(model, X, y, optimizer=optim.SGD(), callbacks=lambda m, h: calls.append(1), checkpoint=saves)
    assert calls == []


# --- SIGTERM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [optim.Adam(0.01), search.PSO(12)], ids=lambda method: method.described())
def test_sigterm_writes_a_checkpoint_and_ends_with_143(method, tmp_path):
    chosen = {"optimizer": method, "epochs": 60, "budget": pg.Budget(evaluations=600)}
    quiet, _ = run(**chosen)
    handler = signal.getsignal(signal.SIGTERM)

    class Terminate(pg.Callback):
        def on_batch_begin(self, run):
            if run.batch.step == 8:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        run(tmp_path, every_steps=1000, callbacks=[Terminate()], **chosen)
    assert caught.value.code == 143
    assert steps_of(tmp_path) == [8]
    assert signal.getsignal(signal.SIGTERM) is handler
    history, _ = run(tmp_path, every_steps=1000, **chosen)
    assert bits(history) == bits(quiet)


def test_sigterm_after_the_last_step_ends_with_143(tmp_path):
    class Terminate(pg.Callback):
        def on_train_end(self, run):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        run(tmp_path, callbacks=[Terminate()])
    assert caught.value.code == 143
    assert steps_of(tmp_path)[-1] == 40


def test_sigterm_is_left_alone_without_checkpoints_and_where_it_is_ignored(tmp_path):
    seen = []

    def look(model, history):
        seen.append(signal.getsignal(signal.SIGTERM))

    run(callbacks=look, epochs=1)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        run(tmp_path, callbacks=look, epochs=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert set(seen) == {before, signal.SIG_IGN}


def test_another_thread_writes_checkpoints_too(tmp_path):
    """Handlers of signals belong to the main thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert bits(found[0][0]) == bits(run()[0])
    assert steps_of(tmp_path)[-1] == 40


def test_a_process_that_is_terminated_ends_with_143(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import popgrad as pg
from fitting import small
model, X, y = small()
print("ready", flush=True)
saves = pg.Checkpoint({str(tmp_path)!r})
pg.fit(model, X, y, optimizer=pg.optim.Adam(), epochs=10**9, record_every=10**9, checkpoint=saves)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    while signal.SIGTERM not in caught_by(process.pid):
        assert process.poll() is None
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143
    assert errors == ""
    assert len(steps_of(tmp_path)) == 1


def caught_by(pid):
    """The signals for which a process has handlers."""
    text = Path(f"/proc/{pid}/status").read_text()
    mask = int(re.search(r"SigCgt:\s*(\w+)", text)[1], 16)
    return {number for number in range(1, 32) if mask >> (number - 1) & 1}


def test_no_warning_without_reason(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, kill=7)
        run(tmp_path)
    assert [str(warning.message) for warning in caught] == []
