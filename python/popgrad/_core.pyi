from enum import IntEnum
from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]

class Stream(IntEnum):
    INITIALIZE = 1
    START = 2
    MOVE = 3
    SHUFFLE = 4
    CHOOSE = 5
    DIVIDE = 6
    LABELS = 7
    PERTURB = 8
    RACE = 9
    BOUNDS = 10
    DROPOUT = 0xD0000000

def isa() -> str: ...
def isas() -> dict[str, bool]: ...
def bfloat16() -> str | None: ...
def threads() -> int: ...
def set_threads(count: int) -> None: ...
def borrow_threads(library: str) -> bool: ...
def cuda_built() -> bool: ...
def cuda_devices() -> int: ...
def step_rules() -> dict[str, tuple[int, int, int, int, int, tuple[str, ...]]]: ...
def step(
    rule: int,
    fields: tuple[float, ...],
    w: _Array,
    g: _Array,
    state: _Array,
    extras: tuple[float, float, float, float, float, float] | None = None,
    average: _Array | None = None,
    scales: _Array | None = None,
    layers: _Array | None = None,
    kept: _Array | None = None,
    t: int = 0,
) -> None: ...

class TensorBatch:
    def __init__(
        self,
        is_double: bool,
        numbers: int,
        kept: int,
        states: int,
        rows: list[list[int]],
        params: list[Any],
        alive: list[Any],
    ) -> None: ...
    @property
    def is_double(self) -> bool: ...
    @property
    def params(self) -> list[Any]: ...
    def values(self) -> tuple[float, ...] | None: ...
    def split(self) -> list[TensorBatch]: ...
    def step(
        self,
        rule: int,
        fields: tuple[float, ...],
        extras: tuple[float, float, float, float, float, float] | None,
        after: tuple[float, ...],
    ) -> None: ...

def gather(
    exchange: Any,
    tensor: type[Any],
    params: list[Any],
    state: dict[Any, Any],
    names: tuple[str, ...],
    numbers: int,
    kept: int,
    states: int,
    adapt_vectors: bool,
) -> list[TensorBatch] | None: ...
def sum_squares(x: _Array) -> float: ...

class MoveRule:
    @property
    def name(self) -> str: ...
    @property
    def outputs(self) -> int: ...
    @property
    def sources(self) -> int: ...
    @property
    def fields(self) -> tuple[str, ...]: ...

def move_rules() -> dict[str, MoveRule]: ...
def move(
    rule: MoveRule,
    fields: _Array,
    out: list[_Array],
    sources: list[_Array],
    seed: int,
    stream: int,
    generation: int,
    rows: list[_Array | None] | None = None,
    chosen: _Array | None = None,
    identity: _Array | None = None,
) -> None: ...
def combine_rows(weights: _Array, rows: _Array, center: _Array, out: _Array) -> None: ...
def spread(rows: _Array, which: _Array, out: _Array) -> None: ...

class Activation:
    @property
    def name(self) -> str: ...
    @property
    def differentiable(self) -> bool: ...

class Score:
    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> bool: ...
    @property
    def differentiable(self) -> bool: ...

def activations() -> dict[str, Activation]: ...
def scores() -> dict[str, Score]: ...

class Noise:
    def __init__(
        self, sigma: float, popsize: int, antithetic: bool, seed: int, stream: int, rank: int, parts: _Array
    ) -> None: ...
    def rows(self, center: _Array, first: int, out: _Array) -> None: ...
    def combine(self, weights: _Array, out: _Array) -> None: ...

class Packed:
    @property
    def samples(self) -> int: ...

class Network:
    def __init__(self, sizes: list[int], activation: str) -> None: ...
    @property
    def n(self) -> int: ...
    def pack(
        self, X: _Array, y: _Array, weight: _Array | None = None, rows: _Array | None = None, bfloat16: bool = False
    ) -> Packed: ...
    def evaluate(self, score: str, population: _Array, packed: Packed, out: _Array) -> None: ...
    def evaluate_noise(self, score: str, noise: Noise, center: _Array, packed: Packed, out: _Array) -> None: ...
    def forward(self, population: _Array, X: _Array, out: _Array, bfloat16: bool = False) -> None: ...
    def gradient(
        self,
        score: str,
        w: _Array,
        X: _Array,
        y: _Array,
        weight: _Array | None,
        rows: _Array | None,
        out: _Array,
        dropout: float = 0.0,
        seed: int = 0,
        step: int = 0,
    ) -> float: ...
