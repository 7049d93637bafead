"""Reading networks from safetensors files, written by `MLP.save` or from a PyTorch ``Sequential``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from popgrad import checkpoint
from popgrad.checks import fail, one_of

__all__ = ["Stored", "read_network"]

Array = NDArray[Any]


class Stored(NamedTuple):
    """The contents of a network file.

    Attributes:
        sizes: sizes of the layers.
        settings: other constructor arguments, by name.
        classes: original labels of the classes, or None.
        tensors: weight and bias of each layer, in order.
        frozen: names of the tensors that are not trainable.
    """

    sizes: list[int]
    settings: dict[str, Any]
    classes: list[Any] | None
    tensors: list[Array]
    frozen: list[str]


def read_network(path: str | os.PathLike[str], given: Mapping[str, Any], known: tuple[str, ...]) -> Stored:
    """Read a file that `MLP.save` wrote, or the state of a PyTorch ``Sequential`` of linear layers.

    Args:
        path: a safetensors file.
        given: settings that override the settings in the file.
        known: allowed names of settings.

    Raises:
        InputError: the file cannot be read or does not hold a multilayer perceptron.
    """
    arrays, numbers = checkpoint.load(path)
    where = os.fspath(path)
    names = sorted(arrays, key=lambda name: _place(where, name))
    weights, biases = [arrays[name] for name in names[0::2]], [arrays[name] for name in names[1::2]]
    sizes = _sizes(where, weights, biases)
    saved = numbers.get("MLP", {})
    if not isinstance(saved, dict) or not saved.keys() <= {"sizes", "classes", "frozen", *known}:
        fail("MLP.load", f"{where!r} holds settings that this version does not know: {saved!r}")
    settings = {"dtype": weights[0].dtype.name, **saved, **given}
    settings.pop("sizes", None)
    classes = settings.pop("classes", None)
    if not isinstance(classes, (list, type(None))):
        fail("MLP.load", f"{where!r} holds classes that are not a list: {classes!r}")
    frozen = settings.pop("frozen", [])
    if not isinstance(frozen, list) or not all(isinstance(name, str) for name in frozen):
        fail("MLP.load", f"{where!r} holds frozen tensors that are not a list of names: {frozen!r}")
    for name in settings:
        one_of("MLP.load", "setting", name, known)
    return Stored(sizes, settings, classes, [arrays[name] for name in names], frozen)


def _place(where: str, name: str) -> tuple[int, bool]:
    """The sort key of a tensor in the order of the parameters."""
    number, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias") or not number.rpartition(".")[2].isdecimal():
        fail("MLP.load", f"{where!r} holds {name!r}; expected names such as '0.weight' and '0.bias'")
    return int(number.rpartition(".")[2]), kind == "bias"


def _sizes(where: str, weights: list[Array], biases: list[Array]) -> list[int]:
    """The sizes of the layers with these weights and biases."""
    fits = bool(weights) and all(
        weight.ndim == 2 and bias.shape == (len(weight),) for weight, bias in zip(weights, biases, strict=False)
    )
    if not fits or len(weights) != len(biases):
        fail("MLP.load", f"{where!r} does not hold a weight (out, in) and a bias (out,) for every layer")
    sizes = [weights[0].shape[1], *(len(weight) for weight in weights)]
    if any(weight.shape[1] != before for weight, before in zip(weights, sizes, strict=False)):
        fail("MLP.load", f"the sizes of consecutive layers in {where!r} do not match: {[w.shape for w in weights]}")
    return sizes
