"""The names, shapes and offsets of the tensors in a flat parameter vector."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from numpy.typing import NDArray

from popgrad.checks import fail, one_of, positive_int

__all__ = ["Layout", "Tensor"]

Array = NDArray[Any]
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a `Layout`.

    Attributes:
        name: name, unique in the layout, such as "0.weight".
        shape: shape; () for a single number.
        offset: index of the first element in the vector.
        trainable: whether gradient methods may change the tensor.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    trainable: bool = True

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor has two dimensions, (outputs, inputs)."""
        return len(self.shape) == 2

    def of(self, vector: Array) -> Array:
        """This tensor in a vector (n,), or in each row of a population (P, n); a view if possible, otherwise a copy."""
        return vector[..., self.offset : self.offset + self.size].reshape(*vector.shape[:-1], *self.shape)


@final
class Layout:
    """The tensors of a parameter vector (n,), in order and without gaps.

    Args:
        shapes: names and shapes of the tensors, such as ``{"weight": (32, 64), "bias": (32,)}``.
        frozen: names of the tensors that are not trainable.

    Attributes:
        tensors: the tensors, each with a name, a shape and an offset.
        size: n, the length of the vector.

    Raises:
        InputError: `shapes` is not a nonempty mapping of names to shapes, or `frozen` names no tensor.
    """

    def __init__(self, shapes: Shapes, frozen: Iterable[str] = ()) -> None:
        if not isinstance(shapes, Mapping) or not shapes:
            fail(self, f'shapes must be a mapping such as {{"weight": (32, 64), "bias": (32,)}}, got {shapes!r}')
        frozen = set(frozen)
        for name in frozen:
            one_of(self, "frozen", name, shapes)
        tensors, offset = [], 0
        for name, shape in shapes.items():
            if not isinstance(name, str) or not isinstance(shape, Sequence):
                fail(self, f"expected a name and a shape for each tensor, got {name!r}: {shape!r}")
            sizes = tuple(positive_int(self, f"each size of {name!r}", size, 0) for size in shape)
            tensors.append(Tensor(name, sizes, offset, name not in frozen))
            offset += math.prod(sizes)
        self.tensors = tuple(tensors)
        self.size = offset

    @classmethod
    def flat(cls, size: int) -> Layout:
        """A layout without structure: one one-dimensional tensor of `size` elements."""
        return cls({"params": (size,)})

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.tensors == other.tensors

    def __hash__(self) -> int:
        return hash(self.tensors)

    def __repr__(self) -> str:
        return f"Layout({self.shapes()}{f', frozen={list(self.frozen)}' if self.frozen else ''})"

    @functools.cached_property
    def frozen(self) -> tuple[str, ...]:
        """The names of the tensors that are not trainable, in order."""
        return tuple(tensor.name for tensor in self.tensors if not tensor.trainable)

    def matching(self, operation: str, pattern: object) -> list[str]:
        """The names of the tensors that match a pattern such as "*.bias" or "0.*" (see `fnmatch`), in order.

        Raises:
            InputError: no tensor matches; the message suggests the nearest name.
        """
        names = list(self.shapes())
        if not isinstance(pattern, str):
            fail(operation, f"patterns must be text such as '*.bias', got {pattern!r}")
        if not (found := [name for name in names if fnmatch.fnmatchcase(name, pattern)]):
            near = difflib.get_close_matches(pattern, names, 1, 0) or names[:1]
            listed = ", ".join(map(repr, names[:12])) + ", ..." * (len(names) > 12)
            fail(operation, f"{pattern!r} matches no tensor. Did you mean {near[0]!r}? The tensors are {listed}")
        return found

    def freeze(self, *patterns: str, operation: str = "Layout.freeze") -> Layout:
        """The layout with the tensors frozen that match one of the patterns, in addition to those that are.

        Raises:
            InputError: there is no pattern, or a pattern matches no tensor.
        """
        if not patterns:
            fail(operation, "needs the names of tensors, or patterns such as '0.*'")
        chosen = {name for pattern in patterns for name in self.matching(operation, pattern)}
        return Layout(self.shapes(), chosen.union(self.frozen))

    def unfreeze(self, *patterns: str, operation: str = "Layout.unfreeze") -> Layout:
        """The layout with the tensors trainable that match one of the patterns, or all tensors without a pattern.

        Raises:
            InputError: a pattern matches no tensor.
        """
        chosen = {name for pattern in patterns or ("*",) for name in self.matching(operation, pattern)}
        return Layout(self.shapes(), set(self.frozen) - chosen)

    def clear_frozen(self, gradient: Array) -> None:
        """Set the entries of a gradient (n,) to zero that belong to frozen tensors."""
        for tensor in self.tensors if self.frozen else ():
            if not tensor.trainable:
                gradient[tensor.offset : tensor.offset + tensor.size] = 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        return {tensor.name: tensor.shape for tensor in self.tensors}

    def tensor_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the tensors, in order."""
        return [tensor.shape for tensor in self.tensors]

    def views(self, vector: Array) -> dict[str, Array]:
        """The tensors of a vector (n,) by name, as views."""
        return {tensor.name: tensor.of(vector) for tensor in self.tensors}

    def check_vector(self, operation: str, size: int) -> None:
        """Fail unless the layout describes a vector of this size."""
        if size != self.size:
            fail(operation, f"layout must add up to {size} parameters, got {self.size}")


def checked_layout(operation: str, layout: object, size: int) -> Layout:
    """Return `layout`; for None, a layout without structure.

    Raises:
        InputError: `layout` is not a layout, or describes a vector of another length.
    """
    if layout is None:
        return Layout.flat(size)
    if not isinstance(layout, Layout):
        fail(operation, f"layout must be a popgrad.Layout, such as model.layout, got {layout!r}")
    layout.check_vector(operation, size)
    return layout
