"""Reads and writes files that survive a crash and cannot run code: safetensors and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save as to_safetensors

from popgrad.checks import fail

__all__ = ["load", "save", "write_file"]


def write_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a whole file or nothing: write and sync a temporary file in the same folder, then rename it.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        fail("write", f"cannot write {str(path)!r}: {error.strerror}")
    return path


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any] | None = None
) -> Path:
    """Save named arrays and JSON values in one safetensors file.

    Args:
        path: the file. An existing file is replaced only when the new one is complete.
        arrays: arrays by name. Strided arrays are copied to C order, which the format requires.
        numbers: any JSON values, stored in the metadata of the file.
    """
    metadata = {"popgrad": json.dumps(dict(numbers))} if numbers is not None else None
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return write_file(path, to_safetensors(contiguous, metadata))


def load(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return what `save` wrote: (arrays, numbers). A safetensors file from another program has no numbers.

    Raises:
        InputError: the file does not exist or is not a complete safetensors file.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        for name, array in arrays.items():
            if array.dtype.isbuiltin != 1:  # a type that another package, such as JAX, registered with NumPy
                raise TypeError(f"{name!r} is {array.dtype}")
        numbers = json.loads(metadata.get("popgrad", "{}"))
        if not isinstance(numbers, dict):
            raise ValueError("its popgrad metadata is not a JSON object")
    except OSError as error:
        fail("load", f"cannot read {os.fspath(path)!r}: {error.strerror or error}")
    except (safetensors.SafetensorError, ValueError) as error:
        fail("load", f"{os.fspath(path)!r} is not a complete safetensors file: {error}")
    except TypeError as error:  # bfloat16 and other PyTorch types
        fail("load", f"{os.fspath(path)!r} holds a type that NumPy lacks: {error}; save it as float32")
    return arrays, numbers
