"""PyTorch tensors in the form that a native step needs: dense, with one dtype and the same memory order."""

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
# Lets the native core read tensors directly; available since PyTorch 2.10.
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
    """Like `gather_natively`, for versions of PyTorch whose tensors the native core cannot read directly."""
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
    if any(b[0] < a[1] for a, b in pairwise(ends)):  # some share memory: step them one at a time
        parts = [(k, ([r], [p], [a])) for k, all_ in parts for r, p, a in zip(*all_, strict=True)]
    return [_core.TensorBatch(key[0] == torch.float64, *counts, *rest) for key, rest in parts]


gather = gather_natively if _EXCHANGE is not None else gather_slowly


def is_plain(tensor: Tensor) -> bool:
    """Whether the elements are floats in CPU memory, without a pending negation."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
        return False
    return not tensor.is_neg() and (tensor.numel() == 0 or bool(tensor.data_ptr()))


def is_number(tensor: Any) -> bool:
    """Whether `tensor` is a single number that a native step can read and write."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() == 1 and tensor.dtype in _KINDS and bool(tensor.data_ptr())


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a contiguous block of memory, in any order, which ``empty_like`` then reproduces."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def _same(tensor: Tensor, frame: Tensor) -> bool:
    """Whether the elements of both, of the same type, lie in the same order."""
    if tensor.dtype != frame.dtype or tensor.shape != frame.shape:
        return False
    return tensor.stride() == frame.stride() or (tensor.is_contiguous() and frame.is_contiguous())


def scalar_type() -> torch.dtype:
    """The dtype of PyTorch's step counts."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


class Copies:
    """Copies that stand in for tensors whose memory a native step cannot use, to be copied back afterwards."""

    def __init__(self) -> None:
        self._back: list[tuple[Tensor, Tensor]] = []

    def param(self, p: Tensor) -> Tensor:
        """The parameter or a dense copy of it, with a gradient in the same memory order."""
        given, gradient = p.detach(), p.grad
        assert gradient is not None
        stand_in = given
        if not (is_plain(given) and is_dense(given)):
            stand_in = torch.empty_like(given).copy_(given)
            self._back.append((p, stand_in))
        stand_in.grad = self._like(gradient.detach(), stand_in)
        return stand_in

    def state(self, state: Mapping[str, Any], names: tuple[str, ...], stand_in: Tensor) -> dict[str, Any]:
        """A copy of the dictionary in which the named tensors have the memory order of the stand-in."""
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
        """Copy the new values back to the original tensors."""
        with torch.no_grad():
            for tensor, values in self._back:
                tensor.copy_(values)


def changed(params: list[Tensor]) -> None:
    """Tell autograd that parameters changed, so that a graph that needs the old values raises an error."""
    try:
        torch.autograd.graph.increment_version(params)  # type: ignore[arg-type, unused-ignore]
    except TypeError:  # before PyTorch 2.5, the function takes one tensor
        for p in params:
            torch.autograd.graph.increment_version(p)
