"""PyTorch's tensors as a native step needs them: dense, of one type, laid out alike."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from popgrad import _core

__all__ = ["DTYPES", "Copies", "changed", "gather", "is_dense", "scalar_type"]

Tensor = torch.Tensor
Batches = list[_core.TensorBatch] | None

DTYPES = (torch.float32, torch.float64)
_KINDS = {torch.float32: 0, torch.float64: 1, torch.int64: 2}
# Lets the native side read tensors by itself; PyTorch has it from 2.10 on.
_EXCHANGE: Any = getattr(Tensor, "__dlpack_c_exchange_api__", None)


def gather_natively(
    params: list[Any], state: Mapping[Any, Any], names: tuple[str, ...], counts: tuple[int, int, int], adapt: bool
) -> Batches:
    """See csrc/bindings/tensors.cpp."""
    if not (isinstance(params, list) and isinstance(state, dict)):
        return None
    return _core.gather(_EXCHANGE, Tensor, params, state, names, *counts, adapt)


def gather_slowly(
    params: list[Any], state: Mapping[Any, Any], names: tuple[str, ...], counts: tuple[int, int, int], adapt: bool
) -> Batches:
    """The same, for a PyTorch that does not let the native side read its tensors."""
    numbers, kept, _ = counts
    found: dict[Any, tuple[list[list[int]], list[Tensor], list[Any]]] = {}
    ends: list[tuple[int, int]] = []
    for p in params:
        g = p.grad if isinstance(p, Tensor) else None
        if g is None:
            if not isinstance(p, Tensor):
                return None
            continue
        own = state.get(p) if names else {}
        wanted: list[Any] = [own.get(name) for name in names] if isinstance(own, dict) else [None]
        if not all(isinstance(value, Tensor) for value in wanted):
            return None
        scalars, full = wanted[: numbers + kept], wanted[numbers + kept :]
        if not (is_plain(p) and is_dense(p) and all(is_plain(x) and _same(x, p) for x in (g, *full))):
            return None
        if not all(is_number(x) for x in scalars):
            return None
        row = [p.numel(), int(adapt or p.dim() > 1), *[x.data_ptr() for x in (p, g, *full)]]
        for x in scalars:
            row += [x.data_ptr(), _KINDS[x.dtype]]
        key = (p.dtype, *[float(x) for x in scalars[:numbers]])
        rows, members, alive = found.setdefault(key, ([], [], []))
        rows.append(row)
        members.append(p)
        alive.append((g, wanted))
        if p.numel():
            ends.append((p.data_ptr(), p.data_ptr() + p.numel() * p.element_size()))
    ends.sort()
    parts = list(found.items())
    if any(b[0] < a[1] for a, b in pairwise(ends)):  # one after the other
        parts = [(k, ([r], [p], [a])) for k, all_ in parts for r, p, a in zip(*all_, strict=True)]
    return [_core.TensorBatch(key[0] == torch.float64, *counts, *rest) for key, rest in parts]


gather = gather_natively if _EXCHANGE is not None else gather_slowly


def is_plain(tensor: Tensor) -> bool:
    """Whether its elements are floats in the computer's memory as they are."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
        return False
    return not tensor.is_neg() and (tensor.numel() == 0 or bool(tensor.data_ptr()))


def is_number(tensor: Any) -> bool:
    """Whether it is one that a native step can read and set."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() == 1 and tensor.dtype in _KINDS and bool(tensor.data_ptr())


def is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a piece of memory, in any order: then PyTorch makes others just like it."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def _same(tensor: Tensor, frame: Tensor) -> bool:
    """Whether the elements of both, of the same type, lie in the same order."""
    if tensor.dtype != frame.dtype or tensor.shape != frame.shape:
        return False
    return tensor.stride() == frame.stride() or (tensor.is_contiguous() and frame.is_contiguous())


def scalar_type() -> torch.dtype:
    """What PyTorch counts steps in."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


class Copies:
    """Stand-ins for tensors that a native step cannot take as they lie, and the way back."""

    def __init__(self) -> None:
        self._back: list[tuple[Tensor, Tensor]] = []

    def param(self, p: Tensor) -> Tensor:
        """The parameter, or a dense copy of it, with its gradient laid out alike."""
        given, gradient = p.detach(), p.grad
        assert gradient is not None
        stand_in = given
        if not (is_plain(given) and is_dense(given)):
            stand_in = torch.empty_like(given).copy_(given)
            self._back.append((p, stand_in))
        stand_in.grad = self._like(gradient.detach(), stand_in)
        return stand_in

    def state(self, state: Mapping[str, Any], names: tuple[str, ...], stand_in: Tensor) -> dict[str, Any]:
        """The same state, in which the named tensors are laid out as the stand-in."""
        copied = dict(state)
        for name in names:
            copied[name] = self._like(state[name], stand_in)
            if copied[name] is not state[name]:
                self._back.append((state[name], copied[name]))
        return copied

    @staticmethod
    def _like(tensor: Tensor, frame: Tensor) -> Tensor:
        if is_plain(tensor) and _same(tensor, frame):
            return tensor
        return torch.empty_like(frame).copy_(tensor.detach())

    def give_back(self) -> None:
        """Write the new values to where they belong, once all steps are taken."""
        with torch.no_grad():
            for tensor, values in self._back:
                tensor.copy_(values)


def changed(params: list[Tensor]) -> None:
    """Tell autograd, which would not notice: a graph that still needs the old values must not go on silently."""
    try:
        torch.autograd.graph.increment_version(params)  # type: ignore[arg-type, unused-ignore]
    except TypeError:  # PyTorch before 2.5 takes them one by one
        for p in params:
            torch.autograd.graph.increment_version(p)
