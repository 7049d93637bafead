"""Who takes part in a comparison, and with which settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from popgrad import optim, search
from popgrad.checks import fail, one_of

__all__ = ["ENTRANTS", "Entrant", "chosen"]


@dataclass(frozen=True)
class Entrant:
    """An optimizer or search with the settings that it races with.

    Args:
        label: for people. method: with its settings. batch_size: samples a step; None means all.
    """

    label: str
    method: optim.Optimizer | search.Search
    batch_size: int | None

    @property
    def kind(self) -> Literal["gradient", "search"]:
        """Whether it needs a gradient."""
        return "gradient" if isinstance(self.method, optim.Optimizer) else "search"


# Every registered class takes part with its defaults, on minibatches of 32 if it follows gradients and on all
# samples if it compares candidates of different generations. The exceptions come first.
ENTRANTS: dict[str, Entrant] = {
    "gd": Entrant("Gradient descent", optim.SGD(), None),
    "sgd": Entrant("SGD, one sample", optim.SGD(learning_rate=0.01), 1),
    "minibatch": Entrant("Mini-batch SGD", optim.SGD(), 32),
    # The noise of minibatches looks like the changes of sign that it goes by.
    "rprop": Entrant("Rprop", optim.Rprop(), None),
    # Around the method that each was first shown with.
    "lookahead": Entrant("Lookahead, Adam", optim.Lookahead(optim.Adam()), 32),
    "sam": Entrant("SAM, momentum", optim.SAM(optim.Momentum()), 32),
    "polyak": Entrant("Polyak average, SGD", optim.Polyak(optim.SGD()), 32),
    # Nothing is compared across generations: its centre averages the noise of small batches out.
    "openai_es": Entrant("OpenAI-ES", search.OpenAIES(), 64),
}
_LABELS = {
    "heavy_ball": "Heavy ball",
    "sign_sgd": "Sign SGD",
    "schedule_free_sgd": "Schedule-Free SGD",
    "schedule_free_adamw": "Schedule-Free AdamW",
    "sophia": "Sophia-G",
    "random_search": "Random search",
    "simulated_annealing": "Simulated annealing",
    "tabu": "Tabu search",
    "genetic": "Genetic algorithm",
    "acor": "ACO_R (ant colony)",
}
ENTRANTS |= {
    name: Entrant(_LABELS.get(name, kind.__name__), cast(Callable[[], optim.Optimizer], kind)(), 32)
    for name, kind in optim.REGISTRY.items()
    if name not in ENTRANTS
}
ENTRANTS |= {
    name: Entrant(_LABELS.get(name, kind.__name__), kind(), None)
    for name, kind in search.REGISTRY.items()
    if name not in ENTRANTS
}


def chosen(names: str | None) -> dict[str, Entrant]:
    """The entrants with these names, separated by commas, in the order given; None means all.

    Raises:
        InputError: a name is unknown or given twice.
    """
    if names is None:
        order = sorted(ENTRANTS, key=lambda name: ENTRANTS[name].kind)
        return {name: ENTRANTS[name] for name in order}
    wanted = [one_of("compare", "optimizer", name.strip().lower(), ENTRANTS) for name in names.split(",")]
    if len(set(wanted)) < len(wanted):
        fail("compare", f"an optimizer is named twice in {names!r}")
    return {name: ENTRANTS[name] for name in wanted}
