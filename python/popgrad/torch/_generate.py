"""Generate a class of `popgrad.torch` from a class of `popgrad.optim`: arguments, states and documentation."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from popgrad.optim import NativeOptimizer
from popgrad.settings import settings_of
from popgrad.torch._base import MOMENTS, Names, Optimizer

__all__ = ["torch_class"]

_TUPLES = {2: "Pair", 3: "Triple"}
_PARAMS = "parameters, named parameters or groups of them."
_LR = "the learning rate, >= 0, a number or a tensor of one element."
_MAXIMIZE = "maximize the loss instead of minimizing it."
_ELSEWHERE = ("; alpha lambda <= 1", " or a schedule")  # parts of docstrings that do not apply to `popgrad.torch`
_COUPLED = "lambda >= 0, added to the gradient as lambda w."


@dataclass(frozen=True)
class Argument:
    """An argument of a generated class: its settings in `popgrad.optim`, default, annotation and documentation."""

    name: str
    settings: tuple[str, ...]
    default: Any
    annotation: str
    text: str


def torch_class(method: type[NativeOptimizer], module: str, base: type[Optimizer] = Optimizer) -> type[Optimizer]:
    """Generate the PyTorch class of a method that `torch.optim` does not have.

    Args:
        method: a class of `popgrad.optim`; its ``torch_names`` define unusual names.
        module: name of the module that holds the class, for pickling.
        base: base class, which may add methods.
    """
    arguments = _arguments(method)
    states = _states(method)
    numbers = [*method.first_numbers, *_kept(method)]
    members = {
        "__init__": _constructor(arguments),
        "__doc__": _documentation(method, base, arguments, states),
        "__module__": module,
        "_method": method,
        "_names": {a.name: a.settings if len(a.settings) > 1 else a.settings[0] for a in arguments if a.settings},
        "_states": states,
        "_counts": _names_of(method).counts,
        "_double": frozenset(states[name] for name in numbers),
    }
    return type(method.__name__, (base,), members)


def _names_of(method: type[NativeOptimizer]) -> Any:
    names = method.torch_names
    assert names is not None, method
    return names


def _usual(method: type[NativeOptimizer]) -> Names:
    """All arguments after lr by name, see `popgrad.optim.TorchNames`."""
    settings = [name for name, s in settings_of(method).items() if not s.keyword and name != "learning_rate"]
    betas = tuple(name for name in settings if re.fullmatch(r"beta\d", name))
    named: dict[str, str | tuple[str, ...]] = {}
    for name in settings:
        if name in betas and len(betas) > 1:
            named["betas"] = betas
        elif name == "epsilon":
            named |= {"eps": "epsilon", "weight_decay": "weight_decay"}
        else:
            named[name] = name
    return named if "weight_decay" in named else named | {"weight_decay": "weight_decay"}


def _arguments(method: type[NativeOptimizer]) -> list[Argument]:
    """All arguments between params and maximize."""
    names, settings, texts = _names_of(method), settings_of(method), _argument_texts(method)
    types = {f.name: str(f.type).replace(" | Schedule", "") for f in fields(method)}
    found = [Argument("lr", (), settings["learning_rate"].default, "Number", _LR)]
    for name, meant in (names.arguments or _usual(method)).items():
        if isinstance(meant, tuple):
            default: Any = tuple(settings[each].default for each in meant)
            entry = (meant, default, _TUPLES[len(meant)], _together(meant, texts))
        elif meant == "weight_decay":
            entry = ((), 0, "float", texts.get(meant, _COUPLED))  # `_make_rule` passes it on
        else:
            entry = ((meant,), settings[meant].default, types[meant], texts[meant])
        found.append(Argument(name, entry[0], names.defaults.get(name, entry[1]), entry[2], entry[3]))
    return found


def _kept(method: type[NativeOptimizer]) -> tuple[str, ...]:
    rule = method().native_rule
    return rule.fields[: rule.kept]


def _states(method: type[NativeOptimizer]) -> dict[str, str]:
    """The names in ``state[p]`` of states and numbers."""
    usual: Mapping[str, str] = MOMENTS | dict(_names_of(method).states)
    return {name: usual.get(name, name) for name in (*method.first_numbers, *_kept(method), *method.state_names)}


def _constructor(arguments: list[Argument]) -> Any:
    given, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature(
        [
            inspect.Parameter("self", given),
            inspect.Parameter("params", given, annotation="Any"),
            *[inspect.Parameter(a.name, given, default=a.default, annotation=a.annotation) for a in arguments],
            inspect.Parameter("maximize", keyword, default=False, annotation="bool"),
        ],
        return_annotation="None",
    )

    def __init__(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        Optimizer.__init__(self, bound.arguments["params"], bound.arguments)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


# --- Documentation -------------------------------------------------------------------------------------------------


def _argument_texts(method: type[NativeOptimizer]) -> dict[str, str]:
    """The text of each argument in the docstring of a class."""
    section = (inspect.getdoc(method) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    texts: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\w)", "\n" + section)[1:]:
        names, _, text = entry.partition(":")
        text = " ".join(text.split())
        for words in _ELSEWHERE:
            text = text.replace(words, "")
        texts |= dict.fromkeys(re.findall(r"\w+", names), text)
    return texts


def _together(settings: tuple[str, ...], texts: Mapping[str, str]) -> str:
    """The texts of several settings; a text that several settings share appears once."""
    parts: dict[str, list[str]] = {}
    for name in settings:
        parts.setdefault(texts[name], []).append(name)
    return "; ".join(f"{', '.join(names)}: {text.rstrip('.')}" for text, names in parts.items()) + "."


def _documentation(
    method: type[NativeOptimizer], base: type[Optimizer], arguments: list[Argument], states: Mapping[str, str]
) -> str:
    first = (inspect.getdoc(method) or "").partition("\n")[0]
    entries = {"params": _PARAMS} | {a.name: a.text for a in arguments} | {"maximize": _MAXIMIZE}
    kept = [*["step"] * _names_of(method).counts, *states.values()]
    parts = [
        f"{first}\n\nSee `popgrad.optim.{method.__name__}` for the formulas.",
        *([inspect.getdoc(base) or ""] if base is not Optimizer else []),
        "Args:\n" + "\n".join(_filled(f"{name}: {text}", 4, 8) for name, text in entries.items()),
        *([_filled(f"State: {', '.join(f'``{name}``' for name in kept)}.", 0, 0)] if kept else []),
        "Raises:\n    InputError: an argument is out of range.",
    ]
    return "\n\n".join(parts) + "\n"


def _filled(text: str, first: int, further: int) -> str:
    indents = {"initial_indent": " " * first, "subsequent_indent": " " * further}
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False, **indents)  # type: ignore[arg-type]
