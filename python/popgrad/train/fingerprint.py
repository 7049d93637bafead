"""What must agree between a checkpoint and the run that continues it, and the error that names a difference."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from popgrad import arrays
from popgrad.checks import InputError, fail
from popgrad.layout import Layout
from popgrad.models import Model
from popgrad.state import digest
from popgrad.train.trainer import Trainer

__all__ = ["check_same", "data_digest", "fingerprint"]

FORMAT = 1  # of checkpoints; a change of their content that older versions misread raises it
_WHOLE = 256 << 20  # bytes up to which all rows are hashed
_ROWS = 4096  # of larger arrays, evenly spaced

# Key of the fingerprint, what it is in an error message, and the key of the text that the message shows.
_COMPARED = (
    ("format", "another format", "format"),
    ("popgrad", "another version of popgrad", "popgrad"),
    ("network", "another network", "network"),
    ("tensors", "a network with other tensors", "tensors"),
    ("dtype", "a network of another dtype", "dtype"),
    ("method", "another method", "method"),
    ("settings", "a method with other settings", "settings_text"),
    ("X", "other inputs X", "X"),
    ("y", "other targets y", "y"),
    ("sample_weight", "another sample_weight", "sample_weight"),
    ("validation", "another validation", "validation"),
    ("batch_size", "another batch_size", "batch_size"),
    ("seed", "another seed", "seed"),
)


def fingerprint(model: Model, trainer: Trainer, data: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A description of a run as JSON values.

    Args:
        model: the model.
        trainer: its trainer.
        data: the arguments X, y, sample_weight and validation of `popgrad.fit`.
        options: further arguments that must be the same. The budget, the epochs and record_every are free to change.
    """
    validation = data["validation"]
    pair = isinstance(validation, (tuple, list))
    return {
        "format": FORMAT,
        "popgrad": version("popgrad"),
        "network": _text(model),
        "tensors": _tensors(trainer.objective.layout),
        "dtype": str(trainer.objective.dtype),
        "method": trainer.method.described(),
        "settings": digest(trainer.method),
        "settings_text": _text(trainer.method),
        **{name: data_digest(data[name]) for name in ("X", "y", "sample_weight")},
        "validation": [data_digest(part) for part in validation] if pair else validation and float(validation),
        "batch_size": trainer.batches.size,
        "seed": trainer.batches.seed,
        "options": {name: value if isinstance(value, str) else _text(value) for name, value in options.items()},
    }


def check_same(path: object, found: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Fail if the checkpoint `path` with the fingerprint `found` is of another run than `mine`.

    Raises:
        InputError: names the first difference, with both values.
    """
    for key, what, shown in _COMPARED:
        if found.get(key) != mine[key]:
            _refuse(path, what, mine[shown], found.get(shown))
    theirs = found.get("options", {})
    for name, value in mine["options"].items():
        if theirs.get(name) != value:
            _refuse(path, f"another {name}", value, theirs.get(name))


def _refuse(path: object, what: str, expected: object, got: object) -> NoReturn:
    fail("fit", f"the checkpoint {str(path)!r} is of {what}: expected {expected}, got {got}")


def data_digest(values: Any) -> str:
    """Type, shape and hash of an array, a table or a tensor; "none" for None, the name of the class for other objects.

    All rows up to 256 MiB are hashed, and 4,096 evenly spaced rows of larger arrays.
    """
    if values is None:
        return "none"
    try:
        array = arrays.read("fit", "data", values)
    except InputError:
        return type(values).__name__
    if array.ndim == 0:
        return type(values).__name__
    if array.dtype.kind == "O":
        array = array.astype(str)
    kept = array
    if array.nbytes > _WHOLE:
        kept = array[np.unique(np.linspace(0, len(array) - 1, _ROWS).astype(np.int64))]
    return f"{array.dtype} {array.shape} {_hash(kept)}"


def _hash(array: NDArray[Any]) -> str:
    plain = np.ascontiguousarray(array)
    content = plain.reshape(-1).view(np.uint8).data if plain.dtype.kind in "fiub" else plain.tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _tensors(layout: Layout) -> list[str]:
    return [f"{each.name} {tuple(each.shape)}{'' if each.trainable else ' frozen'}" for each in layout.tensors]


def _text(value: object) -> str:
    """`repr` without addresses, which differ between processes; the class name if the class defines no repr."""
    if type(value).__repr__ is object.__repr__:
        return type(value).__name__
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
