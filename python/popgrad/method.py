"""The interface of optimizers, searches and their combinations: a method minimizes an objective step by step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import fields
from typing import Any, ClassVar, Literal, cast

from numpy.typing import NDArray

from popgrad import _core
from popgrad.budget import Cost
from popgrad.checks import Settings, fail
from popgrad.objective import Batch, Objective, Steps

__all__ = ["Method"]

Array = NDArray[Any]
State = Any  # a tree of arrays and numbers for popgrad.state.flatten, including the parameters


class Method(metaclass=Settings):
    """A way to minimize an `Objective`: frozen settings, and a state that is data.

    A training loop for any method::

        objective = model.objective(X, y)
        state = method.prepare(objective, model.params, seed=0)
        for step in range(1, 101):
            method.advance(objective, pg.Batch(step=step), state)
        model.params = method.recommend(state)

    Attributes:
        label: name in tables and charts; the class name by default.
        command: name on the command line; by default the label in lower case, with "_" between words.
        kind: "gradient" for methods that follow gradients, "search" for methods that compare candidates.
        default_batch_size: samples per step in `popgrad.fit`; None for all.
        least_steps: minimum number of steps or generations in a run without a budget.
    """

    label: ClassVar[str]
    command: ClassVar[str]
    kind: ClassVar[Literal["gradient", "search"]]
    default_batch_size: ClassVar[int | None] = None
    least_steps: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.label = vars(cls).get("label", cls.__name__)
        cls.command = vars(cls).get("command", cls.label.lower().replace(" ", "_").replace("-", "_"))

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of the objective's operations that the method calls, except `values`; for example "gradient"."""
        return ()

    @abstractmethod
    def prepare(self, objective: Objective, w: Array, seed: int) -> State:
        """The state before the first step.

        Args:
            objective: the objective to minimize.
            w: (n,) initial parameters; copied.
            seed: seed of all random numbers of the method, in [0, 2^64).

        Raises:
            InputError: `w` does not fit the method, or the objective lacks an operation of `requires`.
        """

    @abstractmethod
    def cost(self, objective: Objective, batch: Batch, state: State) -> Cost:
        """An upper bound on the cost of the next `advance`."""

    @abstractmethod
    def advance(self, objective: Objective, batch: Batch, state: State) -> None:
        """Update the state by one step or generation, with calls of the objective."""

    def run(self, objective: Objective, batches: Iterable[Batch] | Steps, state: State) -> None:
        """Advance once for each batch."""
        for loop in self.loops(objective, batches, state):
            _core.train([loop])

    def loops(self, objective: Objective, batches: Iterable[Batch] | Steps, state: State) -> Generator[_core.Training]:
        """Like `run`, for a caller that runs the native loops of several methods at once.

        The caller passes each loop to ``_core.train`` before it asks for the next one, and closes the iterator if that
        raises. A method without native loops advances, and yields nothing.
        """
        for batch in batches:
            self.advance(objective, batch, state)
        yield from ()

    @abstractmethod
    def recommend(self, state: State) -> Array:
        """The parameters (n,) to evaluate and to keep. Do not change them."""

    @abstractmethod
    def finished(self, state: State) -> str | None:
        """The reason why further steps are pointless, or None."""

    def after_record(self, state: State, value: float) -> None:
        """React to a record of the run, except that of the untrained parameters; by default nothing.

        Args:
            state: result of `prepare`.
            value: the objective of the record; smaller is better.
        """
        return

    def move_to(self, state: State, w: Array) -> bool:
        """Continue from other parameters (n,). False if the method cannot; the state is then unchanged."""
        return False

    def described(self) -> str:
        """The class name, with the names of inner methods, such as "Lookahead(Adam)"."""
        inner = [getattr(self, field.name) for field in fields(cast(Any, self))]
        names = [method.described() for method in inner if isinstance(method, Method)]
        return type(self).__name__ + (f"({', '.join(names)})" if names else "")

    def check(self, operation: str, objective: Objective) -> None:
        """Fail if the objective lacks an operation that the method requires.

        Args:
            operation: prefix of the error message.
            objective: the objective to minimize.
        """
        for needed in self.requires:
            if (reason := objective.lacks(needed)) is not None:
                fail(operation, reason)
