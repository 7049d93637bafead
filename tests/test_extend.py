"""A study that gets more seeds, optimizers or data sets under its name, and what may not change in it."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pytest

import popgrad as pg
from popgrad import data, optim
from popgrad.compare import jobs
from popgrad.compare.entrants import Entrant, chosen
from popgrad.compare.files import extended, open_study, read_config, read_results
from popgrad.compare.study import Study, stored_arguments
from test_compare import outcome, popgrad

FAST = {"budget": 5000, "hidden": (4,)}


def study(root, sources=("iris",), entrants="adam,rprop", **more):
    return Study(sources, chosen(entrants), root=root, **(FAST | {"seeds": 1} | more))


def keys(folder):
    return sorted((run["dataset"], run["entrant"], run["seed"]) for run in read_results(folder))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A study of two entrants on iris with one seed."""
    root = tmp_path_factory.mktemp("begun")
    return root, study(root, name="s", command="first").run(workers=1)


@pytest.fixture
def copied(begun, tmp_path):
    shutil.copytree(begun[1], tmp_path / "s")
    return tmp_path, tmp_path / "s"


def test_seeds_entrants_and_data_sets_are_added_and_nothing_is_run_again(copied):
    root, folder = copied
    before = (folder / "results.jsonl").read_bytes()
    totals = []

    def watch(progress):
        totals.append((progress.done, progress.total))

    study(root, name="s", seeds=2, command="more seeds").run(watch, 1)
    assert (totals[0], totals[-1]) == ((2, 4), (4, 4))
    study(root, name="s", entrants="gd", command="an entrant").run(workers=1)
    study(root, ["wine"], name="s", entrants="gd", command="data").run(workers=1)
    assert (folder / "results.jsonl").read_bytes().startswith(before)
    assert keys(folder) == sorted(
        [("iris", entrant, seed) for entrant in ("adam", "rprop") for seed in (0, 1)]
        + [("iris", "gd", 0), ("wine", "gd", 0)]
    )
    config = read_config(folder)
    assert (config["seeds"], list(config["entrants"]), list(config["datasets"])) == (
        *(2, ["adam", "rprop", "gd"], ["iris", "wine"]),
    )
    assert config["command"] == "first\nmore seeds\nan entrant\ndata"


def test_what_a_command_leaves_out_stays(copied):
    root, folder = copied
    study(root, name="s", seeds=3).run(workers=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    study(root, name="s", entrants="adam").run(workers=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_extended_study_has_the_results_of_one_run_at_once(copied):
    root, folder = copied
    study(root, name="s", seeds=2, entrants="adam,gd").run(workers=1)
    at_once = study(root, name="t", seeds=2, entrants="gd,adam").run(workers=1)
    extended, whole = outcome(folder), outcome(at_once)
    assert {key: extended[key] for key in whole} == whole


def test_the_default_name_is_that_of_the_data_and_the_settings(tmp_path):
    def name(**more):
        return study(tmp_path, **more).config()["name"]

    assert name() == name(seeds=5) == name(entrants="sgd,pso") == name(command="popgrad")
    assert name().startswith("iris-")
    others = [{"budget": 6000}, {"hidden": (5,)}, {"objective": "error_rate"}, {"sources": ["wine"]}]
    assert len({name(**other) for other in [*others, {"activation": "tanh"}, {}]}) == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"budget": 6000}, r"holds a study with budget = 5000 \(this command: 6000\); give another --name"),
        ({"hidden": ()}, r"hidden = \[4\] \(this command: \[\]\)"),
        ({"objective": "error_rate", "activation": "tanh"}, r"objective = 'loss' .*, activation = 'relu'"),
    ],
)
def test_shared_settings_may_not_change(copied, more, message):
    root, folder = copied
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(pg.InputError, match=message):
        study(root, name="s", seeds=2, **more).run(workers=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "other", [Entrant("Adam", optim.Adam(learning_rate=0.1), 32), Entrant("Adam", optim.Adam(), 16)]
)
def test_a_name_may_not_stand_for_other_settings(copied, other):
    root, _ = copied
    message = r"in which 'adam' is Adam\(learning_rate=0.001.*, batch size 32 \(this command: Adam\(.*\)"
    with pytest.raises(pg.InputError, match=message):
        Study(["iris"], {"adam": other}, root=root, name="s", seeds=1, **FAST).run(workers=1)


def test_the_same_data_under_another_path_are_the_same(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "d.npz", X=X, y=y)
    first = study(tmp_path, [str(tmp_path / "here/d.npz")], entrants="gd")
    again = study(tmp_path, [str(tmp_path / "there/d.npz")], entrants="gd", seeds=2)
    assert first.run(workers=1) == again.run(workers=1)


def test_a_configuration_is_replaced_as_a_whole_or_not_at_all(copied, monkeypatch):
    root, folder = copied
    before = (folder / "config.json").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        study(root, name="s", seeds=2).run(workers=1)
    assert (folder / "config.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "results.jsonl"]


def test_two_that_extend_the_same_study_add_up(copied):
    """Both were made before either began; the second reads what the first wrote."""
    root, folder = copied
    one, other = study(root, name="s", seeds=2), study(root, name="s", entrants="gd")
    with open_study(folder, one.config()):
        pass
    with open_study(folder, other.config()):
        pass
    config = read_config(folder)
    assert (config["seeds"], list(config["entrants"])) == (2, ["adam", "rprop", "gd"])


def test_extending_changes_neither_configuration(begun):
    root, folder = begun
    old, new = read_config(folder), study(root, name="s", seeds=2, entrants="gd").config()
    copies = json.dumps([old, new])
    assert extended(folder, old, new)["seeds"] == 2
    assert json.dumps([old, new]) == copies


def test_stored_arguments_make_the_same_study(begun):
    root, folder = begun
    stored = stored_arguments(root, "s")
    stored["entrants"] = chosen(",".join(stored["entrants"]))
    again = Study(**stored, root=root, name="s").config()
    old = read_config(folder)
    assert {key: again[key] for key in old if key != "command"} == {key: old[key] for key in old if key != "command"}
    assert stored_arguments(root, "nothing") == {}
    with pytest.raises(pg.InputError, match="name must be"):
        stored_arguments(root, "../s")


def test_the_command_line_extends_a_study_by_its_name_alone(tmp_path):
    table = tmp_path / "my data; a&b.csv"
    rows = [f"{i % 7},{i % 5},{i / 3}" for i in range(60)]
    table.write_text("\n".join(["a,price,b", *rows]))
    settings = ["--target", "price", "--task", "regression", "--hidden", "4", "--budget", "5000"]
    root = ["--root", "my runs", "--name", "s"]
    first = [table.name, *settings, "--optimizers", "adam,rprop", "--seeds", "1", *root]
    assert popgrad("compare", *first, cwd=tmp_path).returncode == 0
    folder = tmp_path / "my runs/s"

    done = popgrad("compare", *root, "--seeds", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Continuing: 2 of 4 runs are there already." in done.stdout
    assert keys(folder) == [("my_data_a_b", e, s) for e in ("adam", "rprop") for s in (0, 1)]

    done = popgrad("compare", *root, "--optimizers", "gd", "--seeds", "1", cwd=tmp_path)
    assert "Runs that this study lacks: 1 of 6." in done.stdout
    assert "popgrad compare --name s --root 'my runs'" in done.stdout
    assert popgrad("compare", *root, cwd=tmp_path).returncode == 0
    again = popgrad("compare", *root, cwd=tmp_path)
    assert "Nothing to run: all 6 runs are there already." in again.stdout
    assert "lacks" not in again.stdout
    refused = popgrad("compare", *root, "--hidden", "5", cwd=tmp_path)
    assert "with hidden = [4] (this command: [5])" in " ".join(refused.stderr.split())

    # What the page says to type is what was typed, quoted for a shell.
    commands = read_config(folder)["command"].splitlines()
    assert shlex.split(commands[0]) == ["popgrad", "compare", *first]
    assert len(commands) == 3


# --- Targets that a source names itself ------------------------------------------------------------------------------


def test_a_target_is_not_given_to_a_source_that_names_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.csv:x").write_text("")  # a file of that very name
    given = {path: jobs.as_source(path, "price", "regression") for path in ("a.csv:rooms", "a.csv", "wine", "d.npz")}
    assert given["a.csv:rooms"] == jobs.Source("a.csv:rooms", None, "regression")
    assert given["a.csv"] == jobs.Source("a.csv", "price", "regression")
    assert given["wine"] == jobs.Source("wine")
    assert given["d.npz"] == jobs.Source("d.npz")
    names = {path: jobs.Source(path).own_target for path in ("a.tsv.gz:the price", "openml:61:class", "openml:61")}
    assert names == {"a.tsv.gz:the price": "the price", "openml:61:class": "class", "openml:61": None}
    assert jobs.Source("odd.csv:x").own_target is None


def test_one_file_with_two_targets_is_two_data_sets(tmp_path, monkeypatch):
    table = tmp_path / "houses.csv"
    table.write_text("\n".join(["rooms,my price,b", *(f"{i % 3},{i / 7},{i / 3}" for i in range(60))]))
    load = data.load
    monkeypatch.setattr(
        data,
        "load",
        lambda path, target, task: load(path.partition(":")[0], target=target or path.partition(":")[2], task=task),
    )
    sources = [f"{table}:rooms", f"{table}:my price"]
    both = study(tmp_path, sources, entrants="gd")
    assert list(both.datasets) == ["houses-rooms", "houses-my_price"]
    assert [described["target"] for described in both.datasets.values()] == ["rooms", "my price"]
    assert [described["task"] for described in both.datasets.values()] == ["classification", "regression"]
    assert {job.dataset: job.source.path for job in both._jobs()} == dict(zip(both.datasets, sources, strict=True))
    result = jobs.run(both._jobs()[1])
    assert (result["dataset"], result["status"]) == ("houses-my_price", "ok")


def test_options_of_tables_reach_the_workers_and_are_stored(tmp_path):
    rows = [f"{i / 7:.3f};{i % 5};{i / 7 + i % 5:.3f}".replace(".", ",") for i in range(60)]
    (tmp_path / "h.csv").write_text("\n".join(["a;b;price", *rows]) + "\n")
    study = Study(
        [str(tmp_path / "h.csv")], chosen("adam"), 1, 20_000, root=tmp_path, name="s", reading={"decimal": ","}
    )
    results = read_results(study.run())
    assert [run["status"] for run in results] == ["ok"]
    assert study.datasets["h"]["task"] == "regression"
    assert study.datasets["h"]["features"] == 2
    again = Study(**stored_arguments(tmp_path, "s") | {"entrants": chosen("adam")}, root=tmp_path, name="s")
    assert again.datasets == study.datasets


def test_other_settings_make_another_study_by_default():
    names = {
        Study(["iris"], chosen("adam", settings=given), budget=20_000).config()["name"]
        for given in ([], ["beta1=0.95"], ["beta1=0.9"])
    }
    assert len(names) == 2
