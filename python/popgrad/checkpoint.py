"""Files that survive a crash, and that cannot run code: safetensors and JSON."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save as to_safetensors

from popgrad.checks import fail

__all__ = ["load", "save", "write_file"]


def write_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a whole file or nothing: to a temporary name beside it, synced, then renamed over it.

    Raises:
        InputError: the folder is not there or cannot be written.
    """
    path = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        fail("write", f"cannot write {str(path)!r}: {error.strerror}")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            fail("write", f"cannot write {str(path)!r}: {error.strerror}")
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any] | None = None
) -> Path:
    """Save named arrays, and what JSON can hold beside them, in one safetensors file.

    Args:
        path: the file; an old one is replaced only by a whole new one.
        arrays: name to array. Strided ones are copied first: the format would store them wrongly.
        numbers: anything JSON can hold; stored in the file's metadata.
    """
    metadata = {"popgrad": json.dumps(dict(numbers))} if numbers is not None else None
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return write_file(path, to_safetensors(contiguous, metadata))


def load(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What `save` wrote: (arrays, numbers). A safetensors file of another program has no numbers.

    Raises:
        InputError: the file is not there or is no whole safetensors file.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        for name, array in arrays.items():
            if array.dtype.isbuiltin != 1:  # a type that another package, such as JAX, has taught NumPy
                raise TypeError(f"{name!r} is {array.dtype}")
        numbers = json.loads(metadata.get("popgrad", "{}"))
        if not isinstance(numbers, dict):
            raise ValueError("its popgrad metadata is no JSON object")
    except OSError as error:
        fail("load", f"cannot read {os.fspath(path)!r}: {error.strerror or error}")
    except (safetensors.SafetensorError, ValueError) as error:
        fail("load", f"{os.fspath(path)!r} is no whole safetensors file: {error}")
    except TypeError as error:  # bfloat16 and other types of PyTorch's
        fail("load", f"{os.fspath(path)!r} holds a type that NumPy lacks: {error}; save it as float32")
    return arrays, numbers
