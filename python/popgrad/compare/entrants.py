"""Who takes part in a comparison, and with which settings."""

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
    """An optimizer or search with the settings that it races with.

    Args:
        label: for people. method: with its settings. batch_size: samples a step; None means all.
    """

    label: str
    method: Method
    batch_size: int | None

    @property
    def kind(self) -> Literal["gradient", "search"]:
        """Whether it needs a gradient."""
        return self.method.kind


# Every registered class takes part with its defaults, on minibatches of 32 if it follows gradients and on all
# samples if it compares candidates of different generations. The exceptions come first.
ENTRANTS: dict[str, Entrant] = {
    "gd": Entrant("Gradient descent", optim.SGD(), None),
    "sgd": Entrant("SGD (one sample)", optim.SGD(learning_rate=0.01), 1),
    "minibatch": Entrant("Mini-batch SGD", optim.SGD(), 32),
    # The noise of minibatches looks like the changes of sign that it goes by.
    "rprop": Entrant("Rprop", optim.Rprop(), None),
    # Around the method that each was first shown with.
    "lookahead": Entrant("Lookahead (Adam)", optim.Lookahead(optim.Adam()), 32),
    "sam": Entrant("SAM (momentum)", optim.SAM(optim.Momentum()), 32),
    "polyak": Entrant("Polyak average (SGD)", optim.Polyak(optim.SGD()), 32),
    # Nothing is compared across generations: its center averages the noise of small batches out.
    "openai_es": Entrant("OpenAI-ES", search.OpenAIES(optimizer=optim.Adam(learning_rate=0.02)), 64),
}
_LABELS = {
    "heavy_ball": "Heavy ball",
    "sign_sgd": "Sign SGD",
    "schedule_free_sgd": "Schedule-Free SGD",
    "schedule_free_adamw": "Schedule-Free AdamW",
    "sophia": "Sophia-G",
}
ENTRANTS |= {
    name: Entrant(_LABELS.get(name, kind.__name__), cast(Callable[[], optim.Optimizer], kind)(), 32)
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
    """The entrants with these names, in the order given, with the settings given.

    Args:
        names: separated by commas; None means all.
        learning_rate: of every gradient method among them, and of the optimizer inside an evolution strategy.
        batch_size: samples a step, or "all", for every entrant.
        settings: "NAME.SETTING=VALUE", such as "adam.beta1=0.95" or "lookahead.inner.epsilon=1e-6". With one
            entrant NAME may be left out.

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
    """Set the learning rate wherever there is one, be it of a wrapped optimizer."""
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
    """Entrant, path and value of "adam.beta1=0.95"."""
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
    """What a value on the command line stands for: a number, true, false, none, or else text."""
    if (constant := text.lower()) in _CONSTANTS:
        return _CONSTANTS[constant]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


_CONSTANTS = {"true": True, "false": False, "none": None}


def _changed(name: str, method: Any, path: Sequence[str], value: object) -> Any:
    """A copy of the settings in which the one at the end of the path has another value."""
    first = one_of("--set", f"setting of {name}", path[0], [f.name for f in fields(method)])
    if len(path) > 1:
        inner = getattr(method, first)
        if not is_dataclass(inner):
            fail("--set", f"{first!r} of {name} is {inner!r}, which has no settings")
        value = _changed(f"{name}.{first}", inner, path[1:], value)
    # Defaults are left out: a preset that the new value names, such as matches=torch, replaces them.
    given = {f.name: getattr(method, f.name) for f in fields(method) if getattr(method, f.name) != f.default}
    return type(method)(**given | {first: value})
