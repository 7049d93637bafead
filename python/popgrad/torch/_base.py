"""The base class of `popgrad.torch`: translates parameter groups to native calls, and results to PyTorch's state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, NoReturn, cast

import torch
from torch._compile import _disable_dynamo
from torch.autograd import profiler
from torch.compiler import is_compiling
from torch.optim import optimizer as hooks

from popgrad import _core
from popgrad.checks import InputError, at_least_zero, fail
from popgrad.optim import NativeOptimizer
from popgrad.torch import _tensors
from popgrad.torch._checkpoints import foreign_names, unwrap, wrapped
from popgrad.torch._tensors import DTYPES, Copies, changed, is_number, scalar_type

__all__ = ["Optimizer"]

Tensor = torch.Tensor
Group = dict[str, Any]
Names = Mapping[str, str | tuple[str, ...]]
Closure = Callable[[], Any]
Number = float | Tensor
Pair = tuple[float, float]
Triple = tuple[float, float, float]

RULES = _core.step_rules()
# Names of states and arguments in PyTorch and in `popgrad.optim`.
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
BETAS: Names = {"betas": ("beta1", "beta2"), "eps": "epsilon"}
_LEAST = 5e-324  # stands for an epsilon of zero in rules that require epsilon > 0
# Looked up once: after a backward pass, every lookup in a module is a cache miss.
_GLOBAL_PRE_HOOKS, _GLOBAL_POST_HOOKS = hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks
# Arguments that are accepted for compatibility and have no effect on a step.
_WITHOUT_EFFECT = ("foreach", "fused", "capturable", "differentiable", "initial_accumulator_value")


@dataclass(slots=True, eq=False)
class GroupPlan:
    """How to step a group with its current options. It holds neither tensors nor states, and is rebuilt on changes."""

    group: Group
    read: Callable[[Group], tuple[Any, ...]]
    options: tuple[Any, ...] | None  # None: an option can change in place, so that every step rebuilds the plan
    rule: NativeOptimizer  # with the options of the group
    numbers: tuple[str, ...]  # names, in the rule, of the numbers kept between steps
    names: tuple[str, ...]  # names in state[p]: step count and numbers, numbers per tensor, states
    counts: tuple[int, int, int]  # lengths of the three parts of names
    adapt_vectors: bool

    @property
    def states(self) -> tuple[str, ...]:
        """The names in state[p] of tensors with the shape of the parameter."""
        return self.names[len(self.names) - self.counts[2] :]

    @property
    def scalars(self) -> tuple[str, ...]:
        """The names in state[p] of single numbers."""
        return self.names[: len(self.names) - self.counts[2]]

    def is_current(self, group: Group) -> bool:
        """Whether the options of the group are unchanged since the plan was built."""
        try:
            return self.group is group and self.options == self.read(group)
        except (RuntimeError, ValueError):  # an option became an array, which compares elementwise
            return False


# One group's part of a step: the plan, the number of steps done (used if the state does not count steps), the tensors,
# and the stand-ins to copy back.
Work = tuple[GroupPlan, float, list[_core.TensorBatch], Copies | None]


class Optimizer(torch.optim.Optimizer):
    """Base class of all optimizers in `popgrad.torch`: a ``torch.optim.Optimizer`` whose step is native.

    All classes accept ``params``, ``lr`` and options, also per group, as in `torch.optim`. ``foreach`` and ``fused``
    have no effect; ``capturable`` and ``differentiable`` must be False. As in `torch.optim`, the ``lr`` of a group may
    be negative, and lr times weight_decay is not limited.

    State: ``state[p]`` is a dictionary of tensors with PyTorch's names. Every step reads the states and the parameters
    again, so that replaced, loaded or modified tensors take effect at the next step.

    Raises:
        InputError: an option is out of range, or a gradient or parameter is not a dense float32 or float64 tensor on
            the CPU; no tensor was changed.
    """

    # A method of `popgrad.optim`; its arguments, by their names in PyTorch; the names in `state[p]` of its states and
    # numbers; the names that only some variants use; whether `state[p]` counts steps.
    _method: ClassVar[Any]
    _names: ClassVar[Names] = {}
    _states: ClassVar[Mapping[str, str]] = {}
    _optional: ClassVar[frozenset[str]] = frozenset()
    _counts: ClassVar[bool] = True
    # Numbers that are always float64; all other numbers have the dtype of the parameter, as in PyTorch.
    _double: ClassVar[frozenset[str]] = frozenset()

    _plans: list[GroupPlan | None] | None = None  # one per group, checked before every use

    def __init__(self, params: Any, given: Mapping[str, Any]) -> None:
        options = {name: _owned(v) for name, v in given.items() if name not in ("self", "params", "__class__")}
        if not at_least_zero(options["lr"]):
            self._fail(f"lr must be a finite number >= 0, got {options['lr']!r}")
        super().__init__(params, options)

    # --- Overridden by classes ---------------------------------------------------------------------------------------

    def _choose(self, group: Group) -> tuple[Any, Names]:
        """The class in `popgrad.optim` that implements the options of the group, and the names of its arguments."""
        return self._method, self._names

    def _plan_step(self, rule: NativeOptimizer, group: Group, t: float, numbers: dict[str, float]) -> _core.StepPlan:
        """The native plan of step t; updates `numbers` in place."""
        # t is a float if the user set the step count to a fraction.
        given = float(group["lr"])
        return rule.plan(t, numbers, learning_rate=given, maximize=group["maximize"])  # type: ignore[arg-type]

    def _first(self, name: str, group: Group) -> float:
        """The initial value of a state."""
        return 0.0

    def _first_numbers(self, rule: NativeOptimizer, group: Group) -> dict[str, float]:
        """The initial values, by name, of the numbers kept between steps."""
        return dict(rule.first_numbers)

    def _check_group(self, group: Group) -> None:
        """Fail unless the options allow a step; called before every step."""
        lr = group["lr"]
        if not (type(lr) is float and math.isfinite(lr)) and not _is_finite(lr):
            self._fail(f"lr must be a finite number, got {group['lr']!r}")

    # --- Options ---------------------------------------------------------------------------------------------------

    def _fail(self, message: str) -> NoReturn:
        fail(type(self).__name__, message)

    def _make_rule(self, group: Group) -> NativeOptimizer:
        """The optimizer of `popgrad.optim` with the group's options."""
        for name in ("capturable", "differentiable"):
            if group.get(name):
                self._fail(f"{name} must be False: CUDA graphs and autograd cannot record a native step")
        for name in ("eps", "weight_decay", "lr_decay", "dampening", "initial_accumulator_value"):
            if name in group and not at_least_zero(group[name]):
                self._fail(f"{name} must be a finite number >= 0, got {group[name]!r}")
        method, names = self._choose(group)
        arguments: dict[str, Any] = {}
        for theirs, ours in names.items():
            value = group[theirs]
            if isinstance(ours, str):
                arguments[ours] = value if value is None or isinstance(value, bool) else float(value)
            elif len(value) != len(ours):
                self._fail(f"{theirs} must be {len(ours)} numbers, got {value!r}")
            else:
                arguments |= zip(ours, map(float, value), strict=True)
        if "epsilon" in arguments:
            arguments["epsilon"] = arguments["epsilon"] or _LEAST
        if "weight_decay" in group:
            arguments["weight_decay"] = float(group["weight_decay"])
        if "decoupled_weight_decay" in group:
            arguments["weight_decay_mode"] = "decoupled" if group["decoupled_weight_decay"] else "coupled"
        try:
            return cast(NativeOptimizer, method(_given_with_the_step, **arguments))
        except InputError as error:
            message = str(error).partition("] ")[2]
            for theirs, ours in names.items():
                if message.split()[0] in ([ours] if isinstance(ours, str) else ours):
                    message = f"{theirs}: {message}" if not isinstance(ours, str) else message.replace(ours, theirs, 1)
                    break
            raise InputError(f"[{type(self).__name__}] {message}") from None

    def _plan(self, group: Group) -> GroupPlan:
        """The plan for a group."""
        rule = self._make_rule(group)
        native = rule.native_rule
        numbers = tuple(self._first_numbers(rule, group))
        keys = (*numbers, *native.fields[: native.kept], *rule.state_names)
        names = (*["step"] * self._counts, *[self._states.get(key, key) for key in keys])
        read = itemgetter(*[name for name in self.defaults if name in group and name not in ("lr", *_WITHOUT_EFFECT)])
        options = read(group)
        return GroupPlan(
            group,
            read,
            options if all(map(_is_fixed, options)) else None,
            rule,
            numbers,
            names,
            (len(numbers) + self._counts, native.kept, native.states),
            rule.adapts(1),
        )

    def _current_plans(self) -> list[GroupPlan]:
        """The plans for all groups, rebuilt where options have changed."""
        groups, plans = self.param_groups, self._plans
        if plans is None or len(plans) != len(groups):
            plans = self._plans = [None] * len(groups)
        for k, group in enumerate(groups):
            plan = plans[k]
            if plan is None or not plan.is_current(group):
                plans[k] = self._plan(group)
            self._check_group(group)
        return plans  # type: ignore[return-value]

    def add_param_group(self, param_group: Group) -> None:
        """See `torch.optim.Optimizer.add_param_group`.

        Raises:
            InputError: an option is out of range; the group was not added.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.update({name: _owned(group[name]) for name in self.defaults})
        try:
            self._make_rule(group)
            self._check_group(group)
        except Exception:
            self.param_groups.pop()
            raise

    # --- State -----------------------------------------------------------------------------------------------------

    @classmethod
    def _state_names(cls) -> frozenset[str]:
        """All names that ``state[p]`` may have."""
        return frozenset([*["step"] * cls._counts, *cls._states.values()])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer.load_state_dict`.

        Raises:
            InputError: the state is from another method; nothing was loaded.
        """
        # The hook is registered last, so that it checks the result of the user's hooks.
        handle = self.register_load_state_dict_pre_hook(cast(Any, _inspected))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        differentiable = "differentiable" in state.get("defaults", self.__dict__.get("defaults", ()))
        super().__setstate__(state)
        if not differentiable:  # PyTorch adds this option even if the class does not have it
            self.defaults.pop("differentiable", None)
        for group in self.param_groups:
            if not differentiable:
                group.pop("differentiable", None)
            for name, value in self.defaults.items():  # older versions of PyTorch had fewer options
                group.setdefault(name, value)
            for p in group["params"]:
                if own := self.state.get(p):
                    self._renew(p, own)

    def _renew(self, p: Tensor, own: dict[str, Any]) -> None:
        """Convert a loaded state to the current format."""
        unwrap(own)
        self._split_kept(own)
        for name in self._state_names() & own.keys():
            if isinstance(own[name], (int, float)):  # as stored by older versions
                own[name] = self._scalar(p, name, own[name])

    @classmethod
    def _split_kept(cls, own: dict[str, Any]) -> None:
        """Replace the list of numbers per tensor, as older versions stored it, by named entries."""
        kept = own.pop("kept", None)
        if isinstance(kept, list):
            names = [cls._states[field] for field in RULES[cls._method.rule].fields[: len(kept)]]
            own |= {
                name: torch.tensor(v, dtype=torch.float64, device="cpu") for name, v in zip(names, kept, strict=True)
            }

    def _scalar(self, p: Tensor, name: str, value: float | Tensor) -> Tensor:
        """A number of a parameter's state, as a tensor on the CPU, where PyTorch keeps step counts too."""
        dtype = scalar_type() if name == "step" else torch.float64 if name in self._double else p.dtype
        return torch.tensor(float(value), dtype=dtype, device="cpu")

    def _complete(self, p: Tensor, frame: Tensor, plan: GroupPlan) -> bool:
        """Create missing entries of a parameter's state, with the layout of `frame`; True if a tensor was missing."""
        if not plan.names:
            return False  # like PyTorch, no empty entries in the state
        own = self.state.get(p)
        if own is None:
            own = self.state[p] = {}
        numbers = self._first_numbers(plan.rule, plan.group).values()
        for name, first in zip(plan.scalars, (*[0.0] * self._counts, *numbers, *plan.rule.first_kept()), strict=True):
            if not is_number(value := own.get(name)):
                own[name] = self._scalar(p, name, first if value is None else value)
        lacking = False
        for key, name in zip(plan.rule.state_names, plan.states, strict=True):
            value = own.get(name)
            if value is None:
                lacking = True
                own[name] = torch.full_like(frame, self._first(key, plan.group), requires_grad=False)
            elif value.dtype != p.dtype:  # keeps the tensor object, which users may hold
                value.data = value.detach().to(p.dtype)
        return lacking

    # --- The step --------------------------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Any:
        """Take one step; parameters without a gradient do not change.

        Args:
            closure: a function that recomputes the gradients and returns the loss; `step` returns its result.

        Raises:
            InputError: see the class; no tensor was changed.
        """
        # PyTorch's wrapper takes as long as the step of a small model, so it is used only when it has an effect.
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _GLOBAL_PRE_HOOKS
            or _GLOBAL_POST_HOOKS
            or profiler._is_profiler_enabled
            or is_compiling()
        ):
            return _hooked_step(self) if closure is None else _hooked_step(self, closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Closure | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for plan, done, batches, copies in self._gather():
            for batch in batches:
                self._advance(plan, done, batch)
            if copies is not None:
                copies.give_back()
        return loss

    def _advance(self, plan: GroupPlan, done: float, batch: _core.TensorBatch) -> None:
        """Step one batch; `done` is the number of steps done, used if the state does not count steps."""
        values, counts, numbers = batch.values(), self._counts, {}
        if values is None:  # a parameter occurs twice in the batch
            for one in batch.split():
                self._advance(plan, done, one)
            return
        if counts:
            done = values[0]
        t = int(done) + 1 if done.is_integer() else done + 1
        if plan.numbers:
            numbers = dict(zip(plan.numbers, values[counts:], strict=True))
        step = self._plan_step(plan.rule, plan.group, t, numbers)
        after = (t, *[numbers[name] for name in plan.numbers]) if counts else ()
        batch.step(step, after)
        changed(batch.params)

    def _gather(self) -> list[Work]:
        """The work of a step, from the current parameters, gradients and states.

        Raises:
            InputError: see the class; no tensor was changed.
        """
        plans, state = self._current_plans(), self.state
        works: list[Work] = []
        for plan in plans:
            names, counts, adapt = plan.names, plan.counts, plan.adapt_vectors
            batches = _tensors.gather(plan.group["params"], state, names, counts, adapt)
            if batches is None:
                return self._prepare(plans)
            works.append((plan, 1.0, batches, None))
        return works

    def _prepare(self, plans: list[GroupPlan]) -> list[Work]:
        """Like `_gather`, if states are missing or the native core cannot use a tensor's memory directly."""
        for plan in plans:
            for p in plan.group["params"]:
                self._check(p, plan)
        works: list[Work] = []
        for plan in plans:
            copies = Copies()
            old: dict[Tensor, dict[str, Any]] = {}
            new: dict[Tensor, dict[str, Any]] = {}
            for p in plan.group["params"]:
                if p.grad is not None:
                    stand_in = copies.param(p)
                    into = new if self._complete(p, stand_in, plan) else old
                    into[stand_in] = copies.state(self.state[p], plan.states, stand_in) if plan.names else {}
            for done, part, back in ((1.0, old, None), (0.0, new, copies)):
                batches = _tensors.gather(list(part), part, plan.names, plan.counts, plan.adapt_vectors)
                assert batches is not None
                works.append((plan, done, batches, back))
        return works

    def _check(self, p: Tensor, plan: GroupPlan) -> None:
        """Fail unless a step of the parameter is possible, if need be with copies."""
        if not isinstance(p, Tensor):
            self._fail(f"parameters must be tensors, got {type(p).__name__}")
        gradient = p.grad
        if gradient is None:
            return
        if gradient.layout != torch.strided:
            self._fail(f"gradients must be dense, got {gradient.layout}: for example use nn.Embedding(sparse=False)")
        for what, tensor in (("parameters", p), ("gradients", gradient)):
            if tensor.dtype not in DTYPES:
                self._fail(
                    f"{what} must be float32 or float64, got {tensor.dtype}: convert the model, or use torch.optim"
                )
            if tensor.device.type != "cpu":
                self._fail(f"{what} must be on the CPU, got {tensor.device}: move them, or use torch.optim")
            if any(step == 0 and size > 1 for step, size in zip(p.stride(), p.shape, strict=True)):
                self._fail("elements of a parameter must not share memory: call clone() on expanded tensors")
            if tensor.layout != torch.strided or (tensor.numel() and not tensor.data_ptr()):
                self._fail(f"{what} must be dense tensors that own memory, got {type(tensor).__name__}")
        if (gradient.dtype, gradient.shape) != (p.dtype, p.shape):
            got = f"{gradient.dtype} {tuple(gradient.shape)} for {p.dtype} {tuple(p.shape)}"
            self._fail(f"a gradient must have its parameter's type and shape, got {got}")
        self._check_state(self.state.get(p, {}) if plan.names else {}, p, plan)

    def _check_state(self, own: Any, p: Tensor, plan: GroupPlan) -> None:
        if not isinstance(own, dict):
            self._fail(f"the state of a parameter must be a dictionary, got {type(own).__name__}")
        for name in plan.states:
            value = own.get(name)
            if value is None:
                continue
            if not isinstance(value, Tensor) or value.layout != torch.strided:
                self._fail(f"the state {name} must be a dense tensor, got {type(value).__name__}")
            if value.shape != p.shape:
                self._fail(f"the state {name} must have shape {tuple(p.shape)}, got {tuple(value.shape)}")
        for name in plan.scalars:
            value = own.get(name)
            if isinstance(value, Tensor) and value.numel() != 1:
                self._fail(f"the state {name} must be one number, got {tuple(value.shape)}")


def _given_with_the_step(t: int) -> float:
    """A placeholder for the learning rate, which each step takes from the group; never called."""
    raise AssertionError("steps of popgrad.torch take the learning rate from the group")


def _inspected(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dictionary to load, after a check that it fits the optimizer."""
    kind, state = type(optimizer), {}
    for key, own in state_dict["state"].items():
        state[key] = dict(own) if isinstance(own, Mapping) else own
        if isinstance(own, Mapping):
            kind._split_kept(state[key])
    names = kind._state_names()
    # A user-defined class may use names that a class of this package uses too, so that they are not foreign.
    known = _all_names() if kind.__module__.startswith(__package__) else names
    if got := foreign_names(state, names, names - kind._optional, known):
        keeps = ", ".join(sorted(names)) or "none"
        optimizer._fail(f"the state to load must be from the same method, with the tensors {keeps}; got {got}")
    return state_dict | {"state": wrapped(state, kind._double)}


def _all_names() -> frozenset[str]:
    """All names of states in subclasses of `Optimizer`."""
    names: frozenset[str] = frozenset()
    kinds = [Optimizer]
    while kinds:
        kind = kinds.pop()
        names |= kind._state_names()
        kinds += kind.__subclasses__()
    return names


def _owned(value: Any) -> Any:
    """An option; a list becomes a tuple, so that the caller cannot change it later."""
    return tuple(value) if isinstance(value, list) else value


def _is_finite(value: Any) -> bool:
    """Whether `value` is one finite number."""
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (RuntimeError, TypeError, ValueError):
        return False


def _is_fixed(value: Any) -> bool:
    """Whether `value` is immutable and compares to a single bool."""
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _hooked(self: Optimizer, closure: Closure | None = None) -> Any:
    return self._step(closure)


# torch.compile cannot trace a native step.
_hooked_step = _disable_dynamo(torch.optim.Optimizer.profile_hook_step(_hooked))
