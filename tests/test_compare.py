"""Studies: what a run is charged and recorded as, and that nothing is lost or run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import popgrad as pg
from popgrad import optim, search
from popgrad.compare import jobs
from popgrad.compare.entrants import ENTRANTS, Entrant, chosen
from popgrad.compare.files import read_results
from popgrad.compare.study import Study

COMMAND = [sys.executable, "-c", "from popgrad.cli import main; main()"]
SMALL = [
    "compare",
    "iris",
    "--optimizers",
    "adam,pso,openai_es,sgd",
    "--seeds",
    "2",
    "--budget",
    "30000",
    "--hidden",
    "4",
]


def popgrad(*arguments, cwd, timeout=120, **more):
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, **more)


def outcome(folder):
    """Everything in the results but the times, by run."""

    def timeless(run):
        curve = {name: values for name, values in run["curve"].items() if name != "seconds"}
        return {name: value for name, value in run.items() if name not in ("seconds", "curve")} | {"curve": curve}

    return {(r["dataset"], r["entrant"], r["seed"]): timeless(r) for r in map(json.loads, lines(folder)) if r}


def lines(folder):
    """The whole lines of a results file."""
    for line in (folder / "results.jsonl").read_text().splitlines():
        try:
            json.loads(line)
        except ValueError:
            continue
        yield line


def only_study(root):
    (folder,) = (root / "runs").iterdir()
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    done = popgrad(*SMALL, cwd=root)
    assert done.returncode == 0, done.stderr
    return root, done


def test_every_registered_method_is_an_entrant():
    methods = {type(entrant.method) for entrant in ENTRANTS.values()}
    wrappers = {getattr(optim, name) for name in optim.wrappers.__all__ + optim.rates.__all__}
    assert methods == set(optim.REGISTRY.values()) | set(search.REGISTRY.values()) | wrappers
    # The batch size decides which of the three gradient descents it is.
    assert [ENTRANTS[name].batch_size for name in ("gd", "sgd", "minibatch")] == [None, 1, 32]
    assert list(chosen("PSO, adam")) == ["pso", "adam"]


def test_a_study_leaves_a_configuration_results_and_a_report(undisturbed):
    root, done = undisturbed
    folder = only_study(root)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "report.html", "results.jsonl"]
    assert "\x1b" not in done.stdout  # no terminal: no progress, no colors
    assert "comparing" not in done.stdout + done.stderr
    assert "iris" in done.stdout
    results = outcome(folder)
    assert set(results) == {("iris", e, s) for e in ("adam", "pso", "openai_es", "sgd") for s in (0, 1)}
    page = (folder / "report.html").read_text()
    for name in ("Adam", "PSO", "OpenAI-ES"):
        assert name in page


def test_budget_is_one_for_all_and_never_exceeded(undisturbed):
    results = outcome(only_study(undisturbed[0]))
    for (_, entrant, _), run in results.items():
        assert run["status"] == "ok"
        # The last step is the last that fits: OpenAI-ES charges 8,192 for one, PSO 2,880.
        assert 0.7 * 30000 < run["forwards"] <= 30000, entrant
        assert run["curve"]["forwards"][0] == 0
        assert run["curve"]["forwards"][-1] == run["forwards"]
        assert (np.diff(run["curve"]["forwards"]) > 0).all()
        assert run["validation_loss"] == min(run["curve"]["validation_loss"])
    # A gradient costs three forwards a sample, a candidate one.
    assert results["iris", "sgd", 0]["evaluations"] == 10_000
    assert results["iris", "pso", 0]["evaluations"] == 30_000 // (32 * 90) * 32


def test_all_start_from_the_same_network_and_data(undisturbed):
    results = outcome(only_study(undisturbed[0]))
    for seed in (0, 1):
        first = {run["curve"]["validation_loss"][0] for (_, _, s), run in results.items() if s == seed}
        assert len(first) == 1


def test_the_same_command_again_runs_nothing(undisturbed):
    root, _ = undisturbed
    folder = only_study(root)
    before = (folder / "results.jsonl").read_bytes()
    again = popgrad(*SMALL, cwd=root)
    assert again.returncode == 0
    assert (folder / "results.jsonl").read_bytes() == before
    assert "iris" in again.stdout


def test_report_is_built_again_from_the_folder(undisturbed):
    folder = only_study(undisturbed[0])
    page = folder / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert popgrad("report", str(folder), cwd=folder).returncode == 0
    assert page.read_bytes() == before


@pytest.mark.parametrize("torn", [b'{"dataset": "iris", "entr', b"\x00\xff\xfe", b'{"dataset": "iris"}'])
def test_half_a_line_is_left_alone_and_its_run_done_again(undisturbed, tmp_path, torn):
    source = only_study(undisturbed[0])
    folder = tmp_path / "runs" / source.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    whole = (source / "results.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "results.jsonl").write_bytes(b"".join(whole[:3]) + torn)
    assert popgrad(*SMALL, cwd=tmp_path).returncode == 0
    after = (folder / "results.jsonl").read_bytes()
    assert after.startswith(b"".join(whole[:3]) + torn + b"\n")  # append-only
    assert len(after.splitlines()) == len(whole) + 1
    assert {key(run) for run in read_results(folder)} == set(outcome(source))


def key(run):
    return run["dataset"], run["entrant"], run["seed"]


def test_killed_at_any_instant_it_goes_on(undisturbed, tmp_path):
    """The ten kills of the acceptance list run in bench/kill_compare.py; here three, at growing delays."""
    expected = outcome(only_study(undisturbed[0]))
    for delay in (0.6, 1.6, 2.2):
        process = subprocess.Popen(
            [*COMMAND, *SMALL], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = popgrad(*SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = only_study(tmp_path)
    assert outcome(folder) == expected
    runs = [key(json.loads(line)) for line in lines(folder)]
    assert len(runs) == len(set(runs))


def test_workers_end_with_a_killed_parent(tmp_path):
    arguments = ["compare", "digits", "--optimizers", "sgd", "--seeds", "2", "--budget", "1e8"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not (children := descendants(process.pid, "spawn_main")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert children
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 30
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(child) for child in children)


def descendants(parent, word):
    """Processes whose parent is `parent` and whose command line holds `word`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and word in (stat.parent / "cmdline").read_text():
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_process_is_turned_away(undisturbed):
    import fcntl

    root, _ = undisturbed
    folder = only_study(root)
    with open(folder / "results.jsonl", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = popgrad(*SMALL, cwd=root)
    assert refused.returncode == 2
    assert "another popgrad compare is writing" in refused.stderr


def test_a_folder_of_another_study_is_refused(undisturbed, tmp_path):
    assert popgrad(*SMALL, "--name", "mine", cwd=tmp_path).returncode == 0
    before = (tmp_path / "runs/mine/results.jsonl").read_bytes()
    refused = popgrad(*SMALL[:-1], "5", "--name", "mine", cwd=tmp_path)
    assert refused.returncode == 2
    assert "holds a study with hidden = [4] (this command: [5])" in " ".join(refused.stderr.split())
    assert (tmp_path / "runs/mine/results.jsonl").read_bytes() == before


def test_changed_data_is_another_study(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % 2
    study = {"entrants": chosen("adam"), "seeds": 1, "budget": 2000, "name": "s", "root": tmp_path / "runs"}
    np.savez(tmp_path / "d.npz", X=X, y=y)
    Study([str(tmp_path / "d.npz")], **study).run(workers=1)
    X[0, 0] += 1
    np.savez(tmp_path / "d.npz", X=X, y=y)
    jobs.load.cache_clear()
    with pytest.raises(pg.InputError, match="holds a study of other data called 'd'"):
        Study([str(tmp_path / "d.npz")], **study).run(workers=1)


@pytest.mark.parametrize("objective", ["error_rate", "f1_macro"])
def test_an_objective_is_what_searches_minimize(tmp_path, objective):
    arguments = ["compare", "iris", "--optimizers", "pso,adam", "--seeds", "1", "--budget", "60000", "--hidden", "4"]
    assert popgrad(*arguments, "--objective", objective, "--name", "error", cwd=tmp_path).returncode == 0
    assert popgrad(*arguments, "--name", "loss", cwd=tmp_path).returncode == 0
    error, loss = outcome(tmp_path / "runs/error"), outcome(tmp_path / "runs/loss")
    assert error["iris", "pso", 0]["curve"] != loss["iris", "pso", 0]["curve"]
    assert error["iris", "adam", 0]["curve"]["loss"] == loss["iris", "adam", 0]["curve"]["loss"]
    run = error["iris", "pso", 0]
    assert objective != "error_rate" or run["validation_metric"] == min(run["curve"]["validation_metric"])
    page = (tmp_path / "runs/error/report.html").read_text()
    assert "gradient methods minimize the loss instead" in " ".join(page.split())


def test_regression_and_step_networks(tmp_path):
    done = popgrad(
        "compare",
        "diabetes",
        "--optimizers",
        "de",
        "--activation",
        "step",
        "--seeds",
        "1",
        "--budget",
        "3e5",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    ((_, run),) = outcome(only_study(tmp_path)).items()
    assert run["status"] == "ok"
    assert run["curve"]["validation_loss"][-1] < run["curve"]["validation_loss"][0]


def iris_job(entrant, digest=None):
    source = jobs.Source("iris")
    digest = digest or jobs.load(source)[1]
    return jobs.Job("iris", "wild", 0, source, digest, entrant, 30000, (4,), "relu", "loss")


def test_a_run_that_diverges_is_recorded_with_what_it_had():
    result = jobs.run(iris_job(Entrant("Wild", optim.SGD(learning_rate=1e30), 32)))
    assert result["status"] == "ok"
    assert "no longer finite" in result["reason"]
    assert result["test_metric"] is not None
    assert result["nonfinite"] == 1
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("diverged", [True, False])
def test_a_result_says_whether_its_run_diverged(monkeypatch, diverged):
    fit = jobs.fit

    def fitted(*arguments, **more):
        history = fit(*arguments, **more)
        history.diverged = diverged
        return history

    monkeypatch.setattr(jobs, "fit", fitted)
    assert jobs.run(iris_job(ENTRANTS["adam"]))["diverged"] is diverged


def test_ctrl_c_keeps_what_is_done(tmp_path):
    arguments = ["compare", "iris", "--optimizers", "adam,sgd", "--seeds", "1", "--budget", "3e7", "--hidden", "4"]
    # What a shell starts in the background ignores the signal, and so would a child of these tests.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", listen + "from popgrad.cli import main; main()", *arguments]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not descendants(process.pid, "spawn_main") and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1)
            os.killpg(process.pid, signal.SIGINT)
            error = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert "the same command continues" in error
    assert "Traceback" not in error


# --- What may go wrong -----------------------------------------------------------------------------------------------


def write_table(path, rows=60):
    rng = np.random.default_rng(0)
    colors = np.array(["red", "blue", ""])[rng.integers(3, size=rows)]
    lines = [f"{a:.4f},{color},{a + len(color):.4f}" for a, color in zip(rng.normal(size=rows), colors, strict=True)]
    path.write_text("\n".join(["size,color,price", *lines]))


def test_a_target_is_for_the_tables_among_several_data_sets(tmp_path):
    write_table(tmp_path / "mixed.csv")
    done = popgrad(
        "compare", "wine", "mixed.csv", "--target", "price", "--optimizers", "adam", "--budget", "1e4", "--seeds", "1",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(outcome(only_study(tmp_path))) == {("wine", "adam", 0), ("mixed", "adam", 0)}
    refused = popgrad("compare", "wine", "--target", "price", cwd=tmp_path)
    assert refused.returncode == 2
    assert "target is for tables" in refused.stderr


def test_task_can_be_said(tmp_path):
    (tmp_path / "grades.csv").write_text("a,grade\n" + "\n".join(f"{i / 7},{i % 5}" for i in range(60)))
    arguments = ["compare", "grades.csv", "--task", "regression", "--optimizers", "adam", "--budget", "1e4"]
    assert popgrad(*arguments, "--seeds", "1", cwd=tmp_path).returncode == 0
    config = json.loads((only_study(tmp_path) / "config.json").read_text())
    assert config["datasets"]["grades"]["task"] == "regression"


def test_a_full_disk_is_said_and_loses_nothing(undisturbed, tmp_path):
    source = only_study(undisturbed[0])
    folder = tmp_path / "runs" / source.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    whole = (source / "results.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "results.jsonl").write_bytes(b"".join(whole[:3]))
    # No file of this process may grow beyond what three results and a bit more take: as on a full disk.
    limit = sum(map(len, whole[:3])) + 100
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from popgrad.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *SMALL], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot write a result" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "results.jsonl").read_bytes().startswith(b"".join(whole[:3]))
    assert popgrad(*SMALL, cwd=tmp_path).returncode == 0
    assert outcome(folder) == outcome(source)


def test_a_killed_worker_is_said(tmp_path):
    arguments = ["compare", "digits", "--optimizers", "sgd", "--seeds", "2", "--budget", "1e8"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (children := descendants(process.pid, "spawn_main")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(children[0], signal.SIGKILL)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "a worker process was killed" in error
    assert "Traceback" not in error


def test_results_without_a_configuration_are_not_adopted(undisturbed, tmp_path):
    source = only_study(undisturbed[0])
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_bytes((source / "results.jsonl").read_bytes())
    refused = popgrad(*SMALL, "--name", "mine", cwd=tmp_path)
    assert refused.returncode == 2
    assert "but no config.json" in refused.stderr


def test_another_instruction_set_does_not_go_on(undisturbed, tmp_path):
    from popgrad import _core

    others = [name for name, runs in _core.isas().items() if runs and name != _core.isa()]
    folder = tmp_path / "runs" / "mine"
    assert popgrad(*SMALL, "--name", "mine", cwd=tmp_path).returncode == 0
    config = json.loads((folder / "config.json").read_text())
    config["machine"]["instruction set"] = others[0] if others else "another"
    (folder / "config.json").write_text(json.dumps(config))
    refused = popgrad(*SMALL, "--name", "mine", cwd=tmp_path)
    assert refused.returncode == 2
    assert "begun with the instruction set" in refused.stderr


def test_data_that_changes_meanwhile_fails_the_run():
    with pytest.raises(pg.InputError, match="was changed while"):
        jobs.run(iris_job(ENTRANTS["adam"], "another"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["iris", "--budget", "1000"], "costs .* forwards, but the budget is 1000"),
        (["iris", "--hidden", "20000000"], "each of sizes must be at most"),
        (["iris", "--hidden", "16000000,16000000"], "no memory for"),
        (["digitz"], "Did you mean 'digits'"),
        (["--optimizers", "adm"], "Did you mean 'adam'"),
        (["--optimizers", "adam,adam"], "named twice"),
        (["--seeds", "0"], "seeds must be"),
        (["--budget", "lots"], "expected a whole number"),
        (["--hidden", "x"], "expected a whole number"),
        (["--objective", "accuracy"], "unknown objective"),
        (["diabetes", "--objective", "error_rate"], "needs classes"),
        (["diabetes", "--objective", "f1_macro"], "objective f1_macro needs classes"),
        (["--activation", "step"], "has no gradient"),
        (["nothing.csv"], "there is none of this name"),
        (["--name", "../x"], "name must be"),
        (["--root", "/dev/null/x"], "cannot write to"),
    ],
)
def test_bad_input_ends_before_any_work(arguments, message, tmp_path):
    import re

    refused = popgrad("compare", *arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert re.search(message, " ".join(refused.stderr.split())), refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("variable", ["POPGRAD_ISA", "POPGRAD_NUM_THREADS"])
def test_a_forced_setting_that_cannot_be_had_gives_no_traceback(variable, tmp_path):
    import shutil

    command = shutil.which("popgrad", path=str(Path(sys.executable).parent))
    done = subprocess.run([command, "info"], env=os.environ | {variable: "none"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert variable in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_without_the_signs_still_gets_its_table(undisturbed):
    folder = only_study(undisturbed[0])
    done = popgrad("report", str(folder), cwd=folder, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "Adam" in done.stdout
