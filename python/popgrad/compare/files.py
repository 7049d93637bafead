"""The files of a study: ``config.json``, replaced as a whole, and ``results.jsonl``, to which runs are appended.

Both survive a process that is killed at any instant. A lock lets only one process write at a time. The operating system
releases it when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from popgrad import _core
from popgrad.checkpoint import write_file
from popgrad.checks import fail

__all__ = ["CURVE", "append_result", "extended", "open_study", "read_config", "read_results"]

KINDS = ("gradient", "search")
CURVE = ("forwards", "seconds", "loss", "validation_loss", "validation_metric")
"""Names of the lists in the curve of a run. All have the same length."""

# Keys that the table and the page read, and their types.
_CONFIG = {
    **dict.fromkeys(("version", "name", "command", "objective", "activation", "dtype"), str),
    **{"seeds": int, "budget": int, "hidden": list, "datasets": dict, "entrants": dict, "machine": dict},
}
_DATASET = {
    **dict.fromkeys(("task", "metric"), str),
    **dict.fromkeys(("rows", "features", "train", "validation", "test"), int),
}
_ENTRANT = {"kind": str, "label": str, "settings": str, "batch_size": int | None}

# Settings that all runs of a study share, and keys that identify a data set and an entrant.
_SETTINGS = ("version", "objective", "budget", "hidden", "activation", "dtype", "libraries")
_SAME_DATA = ("digest", "task", "metric", "rows", "features", "classes", "train", "validation", "test")
_SAME_ENTRANT = ("kind", "settings", "batch_size")


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of the study in a folder, with every key that the table and the page need.

    Raises:
        InputError: the file is missing or unreadable, or a key in it is missing or has the wrong type.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fail("report", f"{str(folder)!r} holds no study: {error.strerror} (config.json)")
    except (ValueError, RecursionError) as error:
        fail("report", f"{str(path)!r} is not valid JSON: {error}")
    wrong = _wrong_in_config(config)
    if wrong:
        fail("report", f"{str(path)!r} was not written by this version of popgrad: {wrong}")
    return config  # type: ignore[no-any-return]  # _wrong_in_config has checked it


def _wrong_in_config(config: object) -> str | None:
    """Return a description of the first error in a configuration, or None."""
    if not isinstance(config, dict):
        return "it is not a JSON object"
    if config.get("format") != 1:
        return f"its format is {config.get('format')!r:.40}, expected 1"
    wrong = _wrong_key(config, _CONFIG)
    if not wrong:
        parts = (("datasets", _DATASET), ("entrants", _ENTRANT))
        found = (_wrong_key(one, types, f"{k}.{name}") for k, types in parts for name, one in config[k].items())
        wrong = next((words for words in found if words), None)
    if wrong:
        return wrong
    for name, entrant in config["entrants"].items():
        if entrant["kind"] not in KINDS:
            return f"entrants.{name}.kind is {entrant['kind']!r:.40}, expected {' or '.join(KINDS)}"
    return None


def _wrong_key(part: object, types: Mapping[str, Any], where: str = "") -> str | None:
    if not isinstance(part, dict):
        return f"{where} is not a JSON object"
    for key, kind in types.items():
        path = f"{where}.{key}" if where else key
        if key not in part:
            return f"{path} is missing"
        if not isinstance(part[key], kind) or isinstance(part[key], bool):
            expected = kind.__name__ if isinstance(kind, type) else kind
            return f"{path} is {part[key]!r:.40}, expected {expected}"
    return None


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read every finished run from ``folder/results.jsonl``, in the order written.

    Incomplete lines, which a killed process leaves, are skipped. If several lines have the same data set, entrant and
    seed, the first counts. A missing file means that no run has finished.

    Raises:
        InputError: the file exists but cannot be read.
    """
    path = folder / "results.jsonl"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        fail("report", f"cannot read {str(path)!r}: {error.strerror}")
    runs: dict[tuple[str, str, int], dict[str, Any]] = {}
    for line in content.splitlines():
        try:
            run = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _complete(run):
            runs.setdefault((run["dataset"], run["entrant"], run["seed"]), run)
    return list(runs.values())


def _complete(run: object) -> bool:
    """Whether a line identifies its run and, if the run succeeded, has its curve. Numbers are checked where used."""
    if not isinstance(run, dict):
        return False
    kinds = {"dataset": str, "entrant": str, "seed": int}
    if any(type(run.get(key)) is not kind for key, kind in kinds.items()):
        return False
    if run.get("status") != "ok":
        return run.get("status") == "failed"
    curve = run.get("curve")
    if not isinstance(curve, dict) or not all(isinstance(curve.get(key), list) for key in CURVE):
        return False
    return len({len(curve[key]) for key in CURVE}) == 1


# --- Writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def open_study(folder: Path, config: Mapping[str, Any]) -> Iterator[BinaryIO]:
    """Open a folder's results for appending, under the lock, and make its configuration include `config`.

    Raises:
        InputError: the folder cannot be written, is in use, or holds a study that `config` cannot extend.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "results.jsonl", "a+b")  # noqa: SIM115
    except OSError as error:
        fail("compare", f"cannot write to {str(folder)!r}: {error.strerror}")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(
                "compare", f"another popgrad compare is writing to {str(folder)!r}; wait for it, or give another --name"
            )
        except OSError as error:
            fail("compare", f"cannot lock a file in {str(folder)!r}: {error.strerror}; give a --root on a local disk")
        _write_config(folder, config)
        # A killed process may have left an incomplete line. End it, so that it does not merge with the next result.
        end = file.seek(0, os.SEEK_END)
        if end > 0:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                append_result(file, "\n")
        yield file


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    if not (folder / "config.json").exists():
        if read_results(folder):
            fail("compare", f"{str(folder)!r} holds results but no config.json; give another --name")
        old, new = None, dict(config)
    else:
        old = read_config(folder)
        new = extended(folder, old, config)
    if new != old:
        write_file(folder / "config.json", json.dumps(new, indent=1).encode())


def extended(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a stored study with the seeds, data sets and entrants of `new` added.

    The study keeps its other data sets and entrants, and the larger number of seeds. The new command is appended to the
    commands of the study on a separate line.

    Raises:
        InputError: `new` differs in a setting that all runs share, or in the data or the settings behind a name.
    """
    where = f"{str(folder)!r} holds a study"
    differing = [
        f"{key} = {old.get(key)!r} (this command: {new[key]!r})" for key in _SETTINGS if old.get(key) != new[key]
    ]
    if differing:
        fail("compare", f"{where} with {', '.join(differing)}; give another --name")
    for name in sorted(set(old["datasets"]) & set(new["datasets"])):
        if any(old["datasets"][name].get(key) != new["datasets"][name].get(key) for key in _SAME_DATA):
            fail("compare", f"{where} of other data called {name!r}; give another --name")
    for name in sorted(set(old["entrants"]) & set(new["entrants"])):
        there, here = (config["entrants"][name] for config in (old, new))
        if any(there.get(key) != here[key] for key in _SAME_ENTRANT):
            shown = [f"{one['settings']}, batch size {one['batch_size'] or 'all'}" for one in (there, here)]
            fail("compare", f"{where} in which {name!r} is {shown[0]} (this command: {shown[1]}); give another --name")
    there, here = old["machine"].get("instruction set"), _core.isa()
    if here != there:
        fail(
            "compare",
            f"{where} begun with the instruction set {there}; this process uses {here}, and results would differ in "
            f"their last digits. Give another --name, or set POPGRAD_ISA={there}",
        )
    larger = {
        "seeds": max(old["seeds"], new["seeds"]),
        "datasets": old["datasets"] | {k: v for k, v in new["datasets"].items() if k not in old["datasets"]},
        "entrants": old["entrants"] | {k: v for k, v in new["entrants"].items() if k not in old["entrants"]},
    }
    if all(old[key] == value for key, value in larger.items()):
        return dict(old)
    return {**old, **larger, "command": f"{old['command']}\n{new['command']}"}


def append_result(file: BinaryIO, line: str) -> None:
    """Write one whole line and sync it to the disk.

    Raises:
        InputError: the disk is full or failed.
    """
    try:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            file.close()  # the rest of the buffer cannot be written either
        fail(
            "compare",
            f"cannot write a result: {error.strerror}. Earlier results are kept; free some disk space and give the "
            "same command again",
        )
