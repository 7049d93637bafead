"""The base class of the gradient optimizers: frozen settings, a state that is data, and one native sweep per step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popgrad import _core, schedules
from popgrad.checks import fail, one_of
from popgrad.columns import Column, column, first_of, head, sqrt
from popgrad.layout import Layout
from popgrad.optim._layers import first_state
from popgrad.optim._loops import Looping, Tables
from popgrad.optim._optimizer import Optimizer, State
from popgrad.optim._presets import Library, Matching, Presets, TorchNames, preset_of
from popgrad.schedules import Reacting, at
from popgrad.settings import check_settings, hyper, settings_of

__all__ = ["NativeOptimizer", "Optimizer", "Schedule", "State", "StepTable"]

Array = NDArray[Any]
Schedule = Callable[[int], float]

RULES = _core.step_rules()
_NOISE_DECAY = 0.55  # of the variance of gradient noise, Neelakantan et al.


class StepTable(NamedTuple):
    """The plans of consecutive steps as arrays, for native loops; see `NativeOptimizer.table`.

    Attributes:
        rule: the native rule of all steps.
        fields: (count, fields) float64, a row per step; columns in the order of ``rule.fields``.
        extras: (count, k) float64, columns in the order of the arguments of ``_core.StepExtras``; None if no option
            acts around the rule.
        numbers: for each of ``State.numbers``, its values (count,) float64 after each step.
    """

    rule: _core.StepRule
    fields: Array
    extras: Array | None
    numbers: dict[str, Array]


def _filled(columns: Sequence[Any], count: int) -> Array:
    """Numbers and columns side by side: (count, len(columns)) float64."""
    table = np.empty((count, len(columns)))
    for j, values in enumerate(columns):
        table[:, j] = values
    return table


def _set_once(obj: object, **values: Any) -> None:
    """Set attributes of an instance of a frozen class: caches that follow from its settings."""
    for name, value in values.items():
        object.__setattr__(obj, name, value)


@dataclass(frozen=True)
class NativeOptimizer(Looping, metaclass=Matching):
    """An optimizer whose step is a rule of the native core. Subclasses hold the hyper-parameters and name the rule.

    All optimizers accept the following keyword arguments. The norm for clip_norm and skip_nonfinite takes an extra pass
    over the gradient, and so do max_norm over the weights and gradient_noise; the other options take none.

    Args:
        weight_decay: lambda >= 0, applied as ``weight_decay_mode`` defines. Decoupled decay requires
            learning_rate lambda <= 1, so that no weight changes its sign.
        weight_decay_mode: "coupled": add lambda w to the gradient. "decoupled": w *= 1 - learning_rate lambda
            before the step. "independent": w *= 1 - lambda learning_rate / max_learning_rate, so that the effect of
            lambda does not depend on the learning rate. None: the default of the method, "coupled" unless its
            documentation says otherwise.
        max_learning_rate: > 0; the largest value of the learning-rate schedule. Required for "independent" with a
            schedule.
        l1: strength >= 0 of the penalty ``l1 * sum |w|``. Its proximal step (soft thresholding by learning_rate * l1)
            follows the update and makes weights exactly zero.
        clip_value: > 0; clip each entry of the gradient to [-clip_value, clip_value].
        clip_norm: > 0; scale the gradient down to this Euclidean norm if its norm is larger. Applied before clip_value.
        max_norm: > 0; after the step, scale the incoming weights of each unit, a row of a weight matrix (outputs,
            inputs), down to this Euclidean norm if their norm is larger (Srivastava et al., JMLR 15 (2014), section
            5.1). Biases are not limited. Needs a layout.
        gradient_noise: eta >= 0; add normal noise of variance ``eta / t ** 0.55`` to the gradient at step t = 1, 2, ...
            (Neelakantan et al. 2015, arXiv:1511.06807, equation 1, where t counts from 0), after clipping.
        noise_seed: seed of gradient_noise, in [0, 2^53]. The noise is a function of seed, step and position.
        skip_nonfinite: skip the step, including the state, if the gradient holds NaN or infinity.
        ema_decay: in [0, 1); keep the running average ``a = ema_decay a + (1 - ema_decay) w`` of the parameters,
            starting with the parameters after the first step. `solution` returns the average.
        state_dtype: storage type of the state, for float32 parameters. None: float32. "bfloat16": half of the bytes.
            "8bit": a quarter of the bytes, for `Momentum`, `HeavyBall`, `Lion`, `Adam` and `AdamW`: powers of 8-bit
            codes in blocks of 256 with one scale per block (Dettmers et al., arXiv:2110.02861); below 4,096 parameters
            float32. Both types use stochastic rounding, a function of step and position, so that small changes
            accumulate.
        matches: "torch", "optax" or "keras": arguments you omit default to that library's values, and the steps equal
            the steps of that library. Where the library has no default (the learning rate in optax, the momentum in
            all libraries), the default of the class applies. Functions are called with 0 at the first step, as in
            these libraries; without ``matches``, they are called with 1. Those of `popgrad.schedules` count from 1.

    Every argument whose type includes ``Schedule`` may be a schedule: one of `popgrad.schedules`, or a function of the
    step. Bias corrections use the current values of beta1 and beta2. A schedule is called once per step. Two cases need
    a second value per step: `ScheduleFreeSGD` and `ScheduleFreeAdamW` with ``matches="optax"``, and `ASGD` with
    ``matches="torch"``.

    Raises:
        InputError: a value is out of range, or the library in ``matches`` has no such optimizer.
    """

    learning_rate: float | Schedule = hyper(above=0, schedule=True)
    _: KW_ONLY
    weight_decay: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    weight_decay_mode: Literal["coupled", "decoupled", "independent"] | None = None
    max_learning_rate: float | None = hyper(None, above=0, optional=True)
    l1: float | Schedule = hyper(0.0, at_least=0, schedule=True)
    clip_value: float | Schedule | None = hyper(None, above=0, optional=True, schedule=True)
    clip_norm: float | Schedule | None = hyper(None, above=0, optional=True, schedule=True)
    max_norm: float | None = hyper(None, above=0, optional=True)
    gradient_noise: float | Schedule | None = hyper(None, at_least=0, optional=True, schedule=True)
    noise_seed: int = hyper(0, at_least=0, at_most=1 << 53, whole=True)
    skip_nonfinite: bool = False
    ema_decay: float | Schedule | None = hyper(None, at_least=0, below=1, optional=True, schedule=True)
    state_dtype: Literal["bfloat16", "8bit"] | None = hyper(None, choices=("bfloat16", "8bit"), optional=True)
    matches: Library | None = None

    # The native rule and the names of its states; an instance may override both.
    rule: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]] = ()
    # Initial `State.numbers`; an instance adds those of its schedules that react to records.
    first_numbers: ClassVar[Mapping[str, float]] = {}
    # Default mode of weight decay ("own": the rule itself decays), and the allowed values of weight_decay_mode.
    default_decay_mode: ClassVar[Literal["coupled", "decoupled", "own"]] = "coupled"
    decay_modes: ClassVar[tuple[str, ...]] = ("coupled", "decoupled", "independent")
    # Whether the first step changes only the state: no weight moves or decays.
    first_step_rests: ClassVar[bool] = False
    # Bytes per float32 parameter that the first of two sweeps reads and writes.
    first_sweep_bytes: ClassVar[int] = 0
    # Arguments for each library in ``matches``.
    presets: ClassVar[Presets] = {}
    # Names of arguments and states in `popgrad.torch`; None: `popgrad.torch` generates no class for the method.
    torch_names: ClassVar[TorchNames | None] = TorchNames()
    # Settings that `Groups` cannot make differ between tensors.
    undivided: ClassVar[tuple[str, ...]] = ()
    # Whether the parameters are what the gradient is computed at and what is kept, so that max_norm can limit them.
    allows_max_norm: ClassVar[bool] = True

    # Cached, since they would dominate a step of a small network: whether no option acts around the rule, the values of
    # the settings that may be schedules but are none, the limits of those that are, all values if none is, and the last
    # learning rate that overrode the optimizer's, with the values of its step.
    _bare: ClassVar[bool]
    _fixed: ClassVar[dict[str, Any]]
    _schedules: ClassVar[dict[str, tuple[float, float]]]
    _reacting: ClassVar[dict[str, Reacting]]
    _constants: ClassVar[dict[str, Any] | None]
    _given: ClassVar[tuple[float, dict[str, Any]]]

    def __post_init__(self) -> None:
        check_settings(self)
        self._check_decay()
        self._check_state_dtype()
        if self.max_norm is not None and not self.allows_max_norm:
            fail(self, "averages its parameters itself: max_norm must be None")
        settings = {name: each for name, each in settings_of(type(self)).items() if each.schedule}
        schedules = {name: each.limits for name, each in settings.items() if callable(getattr(self, name))}
        fixed = {name: getattr(self, name) for name in settings if name not in schedules}
        _set_once(self, _fixed=fixed, _schedules=schedules, _reacting=self._numbers_of_schedules(schedules))
        values = None if schedules else self._values(1, {})
        if values is not None:
            self._check_shrinkage(1, values)
        decays = self.decay_mode != "own" and self.weight_decay != 0
        around = (self.l1, self.clip_value, self.clip_norm, self.skip_nonfinite, self.ema_decay is not None, decays)
        bare = not any((*around, self.max_norm, self.gradient_noise))
        _set_once(self, _bare=bare, _constants=values, _given=(math.nan, {}))

    def _check_decay(self) -> None:
        if self.weight_decay_mode is not None:
            if not self.decay_modes:
                fail(self, "defines its weight decay itself: weight_decay_mode must be None")
            one_of(self, "weight_decay_mode", self.weight_decay_mode, self.decay_modes)
        if self.decay_mode == "independent" and callable(self.learning_rate) and self.max_learning_rate is None:
            fail(self, 'weight_decay_mode="independent" with a schedule needs max_learning_rate')

    def _check_state_dtype(self) -> None:
        rule = self.native_rule
        if self.state_dtype is not None and (rule.sums or (self.state_dtype == "8bit" and rule.positive is None)):
            fail(self, f"the state of this optimizer cannot be stored as {self.state_dtype}: state_dtype must be None")

    def __repr__(self) -> str:
        """The hyper-parameters, and the options that differ from the shared defaults."""
        shared = {f.name: f.default for f in fields(NativeOptimizer) if f.name != "learning_rate"}
        preset = preset_of(type(self), self.matches) if self.matches is not None else {}
        default = {f.name: f.default for f in fields(self)} | preset
        shown = [f.name for f in fields(self) if not f.kw_only]
        shown += [
            f.name
            for f in fields(self)
            if f.kw_only and not getattr(self, f.name) == default[f.name] == shared.get(f.name, default[f.name])
        ]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    # --- The method ------------------------------------------------------------------------------------------------

    @property
    def native_rule(self) -> _core.StepRule:
        """The native rule that computes the steps."""
        return RULES[self.rule]

    @property
    def decay_mode(self) -> str:
        """The mode of weight decay: "coupled", "decoupled", "independent", or "own" if the rule itself decays."""
        return self.weight_decay_mode or self.default_decay_mode

    def adapts(self, dimensions: int) -> bool:
        """Whether the step of a tensor with this number of dimensions is adapted to the tensor's norm."""
        return True

    def first_kept(self) -> list[float]:
        """A row of ``State.kept`` before the first step: the numbers that the method keeps per tensor."""
        return [0.0] * self.native_rule.kept

    # --- Schedules -------------------------------------------------------------------------------------------------

    def _numbers_of_schedules(self, names: Iterable[str]) -> dict[str, Reacting]:
        """The schedules that react to records, by the names of their settings; adds their numbers to first_numbers."""
        given = {name: getattr(self, name) for name in names}
        reacting = {name: schedule for name, schedule in given.items() if isinstance(schedule, Reacting)}
        for name, schedule in reacting.items():
            own = {f"{name}_{key}": number for key, number in schedule.first_numbers.items()}
            _set_once(self, first_numbers={**self.first_numbers, **own})
        return reacting

    def notice(self, state: State, value: float) -> None:
        """See `Optimizer.notice`."""
        for name, schedule in self._reacting.items():
            numbers = self._own_numbers(name, schedule, state.numbers)
            schedule.notice(value, numbers)
            state.numbers |= {f"{name}_{key}": number for key, number in numbers.items()}

    @staticmethod
    def _own_numbers(name: str, schedule: Reacting, numbers: Mapping[str, float]) -> dict[str, float]:
        return {key: numbers[f"{name}_{key}"] for key in schedule.first_numbers}

    def _at(self, name: str, t: Any) -> Any:
        """The value of a hyper-parameter at step t (1, 2, ...); the libraries in `matches` count steps from 0."""
        return at(getattr(self, name), t, name=name, counts_from=1 if self.matches is None else 0)

    def _values(self, t: Any, numbers: Mapping[str, float], **given: Any) -> dict[str, Any]:
        """Values at step t of the settings that may be schedules, except those in `given`; calls each schedule once."""
        now = self._fixed | given
        for name in self._schedules:
            if name in self._reacting:
                schedule = self._reacting[name]
                now[name] = given.get(name, schedule.value_after(self._own_numbers(name, schedule, numbers)))
            elif name not in given:
                now[name] = self._at(name, t)
        return now

    def _checked_values(self, t: int, numbers: Mapping[str, float]) -> dict[str, float]:
        """Like `_values`, with a check of the values.

        Raises:
            InputError: a schedule returns a value out of range, or the decay exceeds the whole weight.
        """
        now = self._values(t, numbers)
        self._check_values(t, now)
        return now

    def _values_given(self, t: int, numbers: Mapping[str, float], learning_rate: float) -> dict[str, Any]:
        """The values at step t with this learning rate."""
        rate, now = self._given
        if self._schedules or rate != learning_rate:
            now = self._values(t, numbers, learning_rate=learning_rate)
            self._check_ranges(t, now, ("learning_rate",))
            _set_once(self, _given=(learning_rate, now))
        return now

    def _check_values(self, t: int, now: Mapping[str, float]) -> None:
        self._check_ranges(t, now)
        self._check_shrinkage(t, now)

    def _check_ranges(self, t: int, now: Mapping[str, float], given: Sequence[str] = ()) -> None:
        for name, (low, high) in self._schedules.items():
            if name not in given and not low <= now[name] <= high:
                setting = settings_of(type(self))[name]
                allowed = replace(setting, above=None, at_least=low, optional=False) if low == 0 else setting
                fail(self, f"{name} must be {allowed.range} at step {t}, got {now[name]!r} from its schedule")

    def _values_in_table(self, first: int, count: int, numbers: Mapping[str, float]) -> tuple[Column, dict[str, Any]]:
        """The steps from `first` on, at most `count`, whose values pass the checks, and the values.

        Raises:
            InputError: the values of the step `first` do not pass.
        """
        t = column(np.arange(first, first + count))
        if self._constants is not None:
            return t, self._constants
        now = self._values(t, numbers)
        # A function that raises has ended its column.
        count = min([count, *(len(values) for values in now.values() if isinstance(values, Column))])
        t, now = head(t, count), {name: head(values, count) for name, values in now.items()}
        good = np.ones(count, bool) & (self._shrinkage(t, now) <= 1)
        for name, (low, high) in self._schedules.items():
            good &= (now[name] >= low) & (now[name] <= high)
        if not good[0]:
            self._check_values(first, {name: first_of(values) for name, values in now.items()})
        count = count if good.all() else int(good.argmin())
        return head(t, count), {name: head(values, count) for name, values in now.items()}

    def _decoupled(self, now: Mapping[str, Any]) -> Any:
        """The share by which decoupled decay shrinks the weights in a step with these values."""
        if self.decay_mode == "decoupled":
            return now["learning_rate"] * now["weight_decay"]
        if self.decay_mode == "independent":
            rate = now["learning_rate"]
            return now["weight_decay"] * rate / (self.max_learning_rate or rate or 1.0)
        return 0.0

    def _shrinkage(self, t: Any, now: Mapping[str, Any]) -> Any:
        """The share by which step t shrinks the weights, independent of the gradient."""
        return self._decoupled(now)

    def _check_shrinkage(self, t: int, now: Mapping[str, float]) -> None:
        if (share := self._shrinkage(t, now)) > 1:
            name = "weight_decay" if self._decoupled(now) > 0 else "decay"
            step = f" at step {t}" if self._schedules else ""
            limit = "must be <= 1, or weights change their sign"
            fail(self, f"{name} times the learning rate {limit}, got {share!r}{step}")

    # --- Steps -----------------------------------------------------------------------------------------------------

    def init(self, params: Array, layout: Layout | None = None) -> State:
        """See `Optimizer.init`."""
        return first_state(f"{type(self).__name__}.init", [self], params, layout)

    @abstractmethod
    def _fields(self, t: Any, now: Mapping[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
        """The fields of the native rule at step t, by name.

        `plan` passes a step, and `table` a column of steps: write the formula with operators and with the functions of
        `popgrad.columns`, without branches on t.

        Args:
            t: 1 for the first step; an int, or a `Column` of steps.
            now: the values at step t of the settings that may be schedules, such as ``now["learning_rate"]``; floats,
                or columns.
            numbers: ``State.numbers`` before the step, or before the first step of the column; replaced by the numbers
                after the step, or by columns of them.
        """

    def plan(
        self,
        t: int,
        numbers: dict[str, float],
        *,
        learning_rate: float | None = None,
        maximize: bool = False,
        loss_scale: float = 1.0,
    ) -> _core.StepPlan:
        """The arguments of step t for the native core, except the arrays: the rule, its fields, and the options.

        Schedules are called only here, once each (see the class for two exceptions).

        Args:
            t: number of the step, 1 for the first.
            numbers: ``State.numbers`` before the step; updated in place.
            learning_rate: overrides the learning rate of the optimizer. It may be negative, and its product with
                weight_decay is not limited.
            maximize: maximize the loss instead of minimizing it.
            loss_scale: factor by which the loss was multiplied, > 0.

        Raises:
            InputError: a schedule returns a value out of range.
        """
        if learning_rate is None:
            now = self._constants or self._checked_values(t, numbers)
        else:
            now = self._values_given(t, numbers, learning_rate)
        fields = self._fields(t, now, numbers)
        if self._bare and loss_scale == 1 and not maximize:
            return _core.StepPlan(RULES[self.rule], fields, None)
        scale = (-1.0 if maximize else 1.0) / loss_scale
        return _core.StepPlan(RULES[self.rule], fields, _core.StepExtras(*self._around(t, now, scale)))

    def table(self, first: int, count: int, numbers: Mapping[str, float]) -> StepTable:
        """The plans of many steps at once, each with the bits of `plan`: the steps `first`, `first` + 1, ...

        The table has fewer than `count` rows if a schedule returns a value out of range, or raises, at a later step
        than `first`; the error is raised when a table begins with that step.

        Args:
            first: number of the first step, 1 for the first of the run.
            count: number of steps, >= 1.
            numbers: ``State.numbers`` before the step `first`; not changed.

        Raises:
            InputError: a schedule returns a value out of range at the step `first`.
        """
        t, now = self._values_in_table(first, count, numbers)
        after: dict[str, Any] = dict(numbers)
        fields, rule = self._fields(t, now, after), RULES[self.rule]
        extras = None if self._bare else _filled(self._around(t, now, 1.0), len(t))
        columns = {name: _filled([values], len(t))[:, 0] for name, values in after.items()}
        return StepTable(rule, _filled([fields[name] for name in rule.fields], len(t)), extras, columns)

    def _around(self, t: Any, now: Mapping[str, Any], scale: float) -> tuple[Any, ...]:
        """The arguments of ``_core.StepExtras``, in order."""
        l2 = now["weight_decay"] if self.decay_mode == "coupled" else 0.0
        decay, l1 = self._decoupled(now), now["learning_rate"] * now["l1"]
        if self.first_step_rests:
            decay, l1 = decay * (t > 1), l1 * (t > 1)
        keep, clip, norm = now["ema_decay"], now["clip_value"], now["clip_norm"]
        mix = 0.0 if keep is None else (1 - keep) * (t > 1) + (t == 1)
        clip, norm, largest = (math.inf if limit is None else limit for limit in (clip, norm, self.max_norm))
        eta = now["gradient_noise"]
        noise = 0.0 if eta is None else sqrt(eta / t**_NOISE_DECAY)
        return scale, clip, l2, decay, l1, mix, norm, self.skip_nonfinite, largest, noise, self.noise_seed

    @property
    def plans_ahead(self) -> bool:
        """See `Looping.plans_ahead`."""
        return all(isinstance(getattr(self, name), schedules.Schedule) for name in self._schedules)

    def tables(self, first: int, count: int, numbers: Mapping[str, float]) -> Tables:
        """See `table`."""
        table = self.table(first, count, numbers)
        return Tables([(table.fields, table.extras)], table.numbers)

    def step(
        self,
        params: Array,
        gradient: Array,
        state: State,
        *,
        loss_scale: float = 1.0,
        learning_rate: float | None = None,
    ) -> None:
        """See `Optimizer.step`; `learning_rate` overrides the learning rate of the optimizer in this step."""
        numbers, t = dict(state.numbers), state.t + 1
        # Most optimizers keep no numbers, and comparing the keys of nothing takes as long as a small sweep.
        differs = bool(numbers or self.first_numbers) and numbers.keys() != self.first_numbers.keys()
        if differs or (state.average is None) != (self.ema_decay is None):
            self.failing("state must come from this optimizer's init")
        if loss_scale != 1 and not (loss_scale > 0 and math.isfinite(loss_scale)):
            self.failing(f"loss_scale must be a finite number > 0, got {loss_scale!r}")
        plan = self.plan(t, numbers, learning_rate=learning_rate, loss_scale=loss_scale)
        try:
            if not _core.step(plan, params, gradient, state, t):
                return  # a gradient that is not finite
        except ValueError as error:
            self.failing_natively(error)
        state.t = t
        state.numbers = numbers

    def solution(self, params: Array, state: State) -> Array:
        """See `Optimizer.solution`."""
        return params if state.average is None or state.t == 0 else state.average

    @property
    def bytes_per_parameter(self) -> float:
        """See `Optimizer.bytes_per_parameter`."""
        width = {None: 4.0, "bfloat16": 2.0, "8bit": 1 + 4 / 256}[self.state_dtype]
        total = 12 + 2 * width * len(self.state_names) + 8 * (self.ema_decay is not None)
        total += 4 * (self.clip_norm is not None or self.skip_nonfinite) + 8 * (self.gradient_noise is not None)
        return total + self.first_sweep_bytes + 12 * (self.max_norm is not None)
