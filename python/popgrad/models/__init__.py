"""Models: parameters as one flat vector, and the objectives that samples make of them."""

from popgrad.models.base import Model
from popgrad.models.mlp import MLP

__all__ = ["MLP", "Model"]
