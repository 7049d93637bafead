"""The names, shapes and offsets of the tensors in a flat parameter vector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from numpy.typing import NDArray

from popgrad.checks import fail, positive_int

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
    """

    name: str
    shape: tuple[int, ...]
    offset: int

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

    Attributes:
        tensors: the tensors, each with a name, a shape and an offset.
        size: n, the length of the vector.

    Raises:
        InputError: `shapes` is not a nonempty mapping of names to shapes.
    """

    def __init__(self, shapes: Shapes) -> None:
        if not isinstance(shapes, Mapping) or not shapes:
            fail(self, f'shapes must be a mapping such as {{"weight": (32, 64), "bias": (32,)}}, got {shapes!r}')
        tensors, offset = [], 0
        for name, shape in shapes.items():
            if not isinstance(name, str) or not isinstance(shape, Sequence):
                fail(self, f"expected a name and a shape for each tensor, got {name!r}: {shape!r}")
            sizes = tuple(positive_int(self, f"each size of {name!r}", size, 0) for size in shape)
            tensors.append(Tensor(name, sizes, offset))
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
        return f"Layout({self.shapes()})"

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
