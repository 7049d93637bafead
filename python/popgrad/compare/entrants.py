"""The optimizers and searches of a comparison, and their settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, cast

from popgrad import optim, search
from popgrad.checks import fail, one_of
from popgrad.method import Method

__all__ = ["ENTRANTS", "Entrant", "chosen"]


@dataclass(frozen=True)
class Entrant:
    """An optimizer or search with its settings.

    Args:
        label: name in tables and charts.
        method: the optimizer or search.
        batch_size: samples per step; None means all.
    """

    label: str
    method: Method
    batch_size: int | None

    @property
    def kind(self) -> Literal["gradient", "search"]:
        """ "gradient" for methods that follow gradients, otherwise "search"."""
        return self.method.kind


# Every registered class takes part with its defaults. Gradient methods use minibatches of 32. Searches use all samples,
# because they compare candidates of different generations. The exceptions come first.
ENTRANTS: dict[str, Entrant] = {
    "gd": Entrant("Gradient descent", optim.SGD(), None),
    "sgd": Entrant("SGD (one sample)", optim.SGD(learning_rate=0.01), 1),
    "minibatch": Entrant("Mini-batch SGD", optim.SGD(), 32),
    # Rprop follows the signs of gradients, which the noise of minibatches changes.
    "rprop": Entrant("Rprop", optim.Rprop(), None),
    # Each wrapper is around the method of its paper.
    "lookahead": Entrant("Lookahead (Adam)", optim.Lookahead(optim.Adam()), 32),
    "sam": Entrant("SAM (momentum)", optim.SAM(optim.Momentum()), 32),
    "polyak": Entrant("Polyak average (SGD)", optim.Polyak(optim.SGD()), 32),
    "hypergradient": Entrant("Hypergradient (SGD)", optim.Hypergradient(optim.SGD()), 32),
    "sps": Entrant("SPS (SGD)", optim.SPS(optim.SGD(1.0)), 32),
    "line_search": Entrant("Line search (SGD)", optim.LineSearch(optim.SGD(1.0)), 32),
    # OpenAI-ES compares candidates of one generation only, and its center averages the noise of small batches.
    "openai_es": Entrant("OpenAI-ES", search.OpenAIES(optimizer=optim.Adam(learning_rate=0.02)), 64),
}
ENTRANTS |= {
    name: Entrant(kind.label, cast(Callable[[], optim.Optimizer], kind)(), 32)
    for name, kind in optim.REGISTRY.items()
    if name not in ENTRANTS
}
ENTRANTS |= {name: Entrant(kind.label, kind(), None) for name, kind in search.REGISTRY.items() if name not in ENTRANTS}


def chosen(
    names: str | None = None,
    *,
    learning_rate: float | None = None,
    batch_size: str | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Entrant]:
    """Return the entrants with these names, in the order given, with the settings given.

    Args:
        names: names separated by commas; None means all.
        learning_rate: learning rate of every gradient method, and of the optimizer inside an evolution strategy.
        batch_size: samples per step, or "all", for every entrant.
        settings: "NAME.SETTING=VALUE", such as "adam.beta1=0.95" or "lookahead.inner.epsilon=1e-6". NAME may be omitted
            if there is one entrant.

    Raises:
        InputError: a name or setting is unknown, a name is given twice, or a value is out of range.
    """
    if names is None:
        entrants = {name: ENTRANTS[name] for name in sorted(ENTRANTS, key=lambda name: ENTRANTS[name].kind)}
    else:
        wanted = [one_of("optimizers", "optimizer", name.strip().lower(), ENTRANTS) for name in names.split(",")]
        if len(set(wanted)) < len(wanted):
            fail("optimizers", f"an optimizer is named twice in {names!r}")
        entrants = {name: ENTRANTS[name] for name in wanted}
    if batch_size is not None:
        size = None if batch_size == "all" else _batch_size(batch_size)
        entrants = {name: replace(entrant, batch_size=size) for name, entrant in entrants.items()}
    if learning_rate is not None:
        entrants = _with_learning_rate(entrants, learning_rate)
    for setting in settings:
        name, path, value = _parsed(setting, entrants)
        entrants[name] = replace(entrants[name], method=_changed(name, entrants[name].method, path, value))
    return entrants


def _batch_size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        fail("--batch-size", f'expected a whole number >= 1 or "all", got {text!r}')
    return int(text)


def _with_learning_rate(entrants: dict[str, Entrant], learning_rate: float) -> dict[str, Entrant]:
    """Set every learning rate, including the rate of a wrapped optimizer."""
    paths = {name: _path_to_learning_rate(entrant.method) for name, entrant in entrants.items()}
    if not any(paths.values()):
        fail("--lr", f"none of {', '.join(entrants)} has a learning rate; popgrad list shows the settings of each")
    return {
        name: replace(entrant, method=_changed(name, entrant.method, path, learning_rate))
        if (path := paths[name])
        else entrant
        for name, entrant in entrants.items()
    }


def _path_to_learning_rate(method: Any) -> list[str] | None:
    for setting in fields(method):
        if setting.name == "learning_rate":
            return ["learning_rate"]
        inner = getattr(method, setting.name)
        if isinstance(inner, Method) and (path := _path_to_learning_rate(inner)) is not None:
            return [setting.name, *path]
    return None


def _parsed(setting: str, entrants: Mapping[str, Entrant]) -> tuple[str, list[str], object]:
    """Return the entrant, the path and the value of "adam.beta1=0.95"."""
    left, equals, right = setting.partition("=")
    path = left.strip().split(".")
    if not equals or not all(path) or not right.strip():
        fail("--set", f"expected NAME.SETTING=VALUE, such as adam.beta1=0.95, got {setting!r}")
    if len(entrants) == 1 and path[0] not in entrants:
        path = [*entrants, *path]
    name = one_of("--set", "optimizer", path[0].lower(), entrants)
    if len(path) < 2:
        fail("--set", f"expected a setting of {name!r}, such as {name}.SETTING={right}, got {setting!r}")
    return name, path[1:], _value(right.strip())


def _value(text: str) -> object:
    """Return the value of a text on the command line: a number, true, false or none; otherwise the text itself."""
    if (constant := text.lower()) in _CONSTANTS:
        return _CONSTANTS[constant]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


_CONSTANTS = {"true": True, "false": False, "none": None}


def _changed(name: str, method: Any, path: Sequence[str], value: object) -> Any:
    """Return a copy of the method with another value of the setting at the end of the path."""
    first = one_of("--set", f"setting of {name}", path[0], [f.name for f in fields(method)])
    if len(path) > 1:
        inner = getattr(method, first)
        if not is_dataclass(inner):
            fail("--set", f"{first!r} of {name} is {inner!r}, which has no settings")
        value = _changed(f"{name}.{first}", inner, path[1:], value)
    # Defaults are omitted, so that a preset named by the new value, such as matches=torch, can replace them.
    given = {f.name: getattr(method, f.name) for f in fields(method) if getattr(method, f.name) != f.default}
    return type(method)(**given | {first: value})
