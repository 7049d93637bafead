"""Where each tensor lies in a flat parameter vector."""

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
        name: unique in its layout, such as "0.weight".
        shape: its sizes; () for a single number.
        offset: place of its first number in the vector.
    """

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it has two dimensions, (outputs, inputs)."""
        return len(self.shape) == 2

    def of(self, vector: Array) -> Array:
        """This tensor in a vector (n,), or in each row of a population (P, n): a view wherever NumPy can make one."""
        return vector[..., self.offset : self.offset + self.size].reshape(*vector.shape[:-1], *self.shape)


@final
class Layout:
    """The tensors of a parameter vector (n,), in order and without gaps.

    Args:
        shapes: names and shapes of the tensors, such as ``{"weight": (32, 64), "bias": (32,)}``.

    Attributes:
        tensors: each with its name, shape and offset.
        size: n, the length of the vector.

    Raises:
        InputError: `shapes` is no such mapping.
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
        """The layout of a vector of `size` numbers without any structure: one tensor of one dimension."""
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
        """Name and shape of each tensor."""
        return {tensor.name: tensor.shape for tensor in self.tensors}

    def tensor_shapes(self) -> list[tuple[int, ...]]:
        """Shape of each tensor, whatever its name is."""
        return [tensor.shape for tensor in self.tensors]

    def views(self, vector: Array) -> dict[str, Array]:
        """The tensors of a vector (n,) by their names, as views."""
        return {tensor.name: tensor.of(vector) for tensor in self.tensors}

    def check_vector(self, operation: str, size: int) -> None:
        """Fail unless a vector of this size has this layout."""
        if size != self.size:
            fail(operation, f"layout must add up to {size} parameters, got {self.size}")


def checked_layout(operation: str, layout: object, size: int) -> Layout:
    """Return `layout`, or that of a vector without structure for None.

    Raises:
        InputError: it is no layout, or that of a vector with another length.
    """
    if layout is None:
        return Layout.flat(size)
    if not isinstance(layout, Layout):
        fail(operation, f"layout must be a popgrad.Layout, such as model.layout, got {layout!r}")
    layout.check_vector(operation, size)
    return layout
