"""The initial weights of a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popgrad.backends import Stream, move
from popgrad.layout import Layout

__all__ = ["INITS", "default_init", "draw_weights"]

# Initial weights whose variance preserves the scale of a signal from layer to layer. He et al. 2015: activations that
# are zero or small for half of the inputs. Glorot & Bengio 2010: activations that are linear around zero. LeCun et al.
# 1998: all other activations.
_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
INITS = tuple(f"{who}_{how}" for who in ("he", "glorot", "lecun") for how in ("normal", "uniform"))


def default_init(activation: str) -> str:
    """The default initialization for an activation."""
    if activation in _RECTIFIERS:
        return "he_uniform"
    return "glorot_uniform" if activation in ("identity", "tanh", "sigmoid") else "lecun_uniform"


def draw_weights(params: NDArray[Any], layout: Layout, init: str, seed: int) -> None:
    """Draw the weight matrices in `params` (n,), one of `INITS`; all other parameters become zero."""
    scheme, shape = init.split("_")
    width = np.zeros_like(params)
    for tensor in layout:
        if tensor.is_matrix:
            outputs, inputs = tensor.shape
            variance = {"he": 2 / inputs, "glorot": 2 / (inputs + outputs), "lecun": 1 / inputs}[scheme]
            tensor.of(width)[:] = math.sqrt(variance if shape == "normal" else 3 * variance)
    out, stream = params[None], Stream.INITIALIZE
    if shape == "normal":
        zero = np.zeros_like(width)
        move("SpreadGaussian", out, [zero, width], seed=seed, generation=0, stream=stream, width=1.0)
    else:
        move("Uniform", out, [-width, width], seed=seed, generation=0, stream=stream)
