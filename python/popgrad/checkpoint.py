"""Reads and writes files that survive a crash and cannot run code: safetensors and JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save as to_safetensors

from popgrad.checks import fail

__all__ = ["load", "remove_temporaries", "save", "write_file"]

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")  # names that `write_file` gives
# Some file systems cannot sync a folder.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.ENOTSUP)


def write_file(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a whole file or nothing: write and sync a temporary file in the same folder, rename it, sync the folder.

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
        _sync_folder(path.parent)
    except OSError as error:
        fail("write", f"cannot write {str(path)!r}: {error.strerror}")
    return path


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path, prefix: str) -> None:
    """Remove the temporary files that killed processes left behind in `write_file`.

    Args:
        folder: an existing folder, in which no other process writes such files now.
        prefix: how the names of the final files begin.
    """
    for path in folder.glob(f".{prefix}*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    numbers: Mapping[str, Any] | None = None,
    *,
    checksum: bool = False,
) -> Path:
    """Save named arrays and JSON values in one safetensors file.

    Args:
        path: the file. An existing file is replaced only when the new one is complete.
        arrays: arrays by name. Strided arrays are copied to C order, which the format requires.
        numbers: any JSON values, stored in the metadata of the file.
        checksum: whether to store a SHA-256 of the content too, so that `load` detects changed bits.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {} if numbers is None else {"popgrad": json.dumps(dict(numbers))}
    if checksum:
        metadata["sha256"] = _checksum(contiguous, metadata.get("popgrad", ""))
    return write_file(path, to_safetensors(contiguous, metadata or None))


def _checksum(arrays: Mapping[str, NDArray[Any]], numbers: str) -> str:
    """A SHA-256 of the names, types, shapes and bits of C-contiguous arrays, and of the JSON text of numbers."""
    sha = hashlib.sha256(numbers.encode())
    for name, array in sorted(arrays.items()):
        sha.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def load(path: str | os.PathLike[str], *, checksum: bool = False) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return what `save` wrote: (arrays, numbers). A safetensors file from another program has no numbers.

    Args:
        path: the file.
        checksum: whether to refuse a file without a checksum. A checksum that is there is always checked.

    Raises:
        InputError: the file does not exist or is not a complete safetensors file, or its checksum, if it has one, does
            not fit its content.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        for name, array in arrays.items():
            if array.dtype.isbuiltin != 1:  # a type that another package, such as JAX, registered with NumPy
                raise TypeError(f"{name!r} is {array.dtype}")
        if (checksum or "sha256" in metadata) and metadata.get("sha256") != _checksum(
            arrays, metadata.get("popgrad", "")
        ):
            raise ValueError("its checksum does not fit its content")
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
