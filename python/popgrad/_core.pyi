from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]

def isa() -> str: ...
def isas() -> dict[str, bool]: ...
def threads() -> int: ...
def set_threads(count: int) -> None: ...
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
def step_list(
    rule: int,
    fields: tuple[float, ...],
    is_double: bool,
    table: _Array,
    extras: tuple[float, float, float, float, float, float] | None = None,
    kept: _Array | None = None,
    t: int = 0,
) -> None: ...
def sum_squares(x: _Array) -> float: ...
def move_rules() -> dict[str, tuple[int, int, int, tuple[str, ...]]]: ...
def move(
    rule: int,
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
def combine(weights: _Array, rows: _Array, centre: _Array, out: _Array) -> None: ...
def spread(rows: _Array, which: _Array, out: _Array) -> None: ...
def activations() -> dict[str, bool]: ...
def scores() -> dict[str, tuple[bool, bool]]: ...

class Packed:
    @property
    def samples(self) -> int: ...

class Network:
    def __init__(self, sizes: list[int], activation: str) -> None: ...
    @property
    def n(self) -> int: ...
    def pack(self, X: _Array, y: _Array, weight: _Array | None = None, rows: _Array | None = None) -> Packed: ...
    def evaluate(self, score: str, population: _Array, packed: Packed, out: _Array) -> None: ...
    def forward(self, w: _Array, X: _Array, out: _Array) -> None: ...
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
