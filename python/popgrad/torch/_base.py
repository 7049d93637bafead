"""What every class of `popgrad.torch` shares: from parameter groups to native calls, and back to PyTorch's state."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, ClassVar, NoReturn, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch._compile import _disable_dynamo
from torch.optim import optimizer as hooks

from popgrad import _core
from popgrad.checks import InputError, at_least_zero, fail

__all__ = ["Optimizer"]

Tensor = torch.Tensor
Group = dict[str, Any]
Names = Mapping[str, str | tuple[str, ...]]
Closure = Callable[[], Any]
Number = float | Tensor
Pair = tuple[float, float]
Triple = tuple[float, float, float]

RULES = _core.step_rules()
# Names of states and arguments: PyTorch's, and ours.
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
AVERAGING = {"weight_sum": "weight_sum", "largest_rate": "lr_max"}
BETAS: Names = {"betas": ("beta1", "beta2"), "eps": "epsilon"}
THREE_BETAS: Names = {"betas": ("beta1", "beta2", "beta3"), "eps": "epsilon"}
_DTYPES = (torch.float32, torch.float64)
_LEAST = 5e-324  # what a rule that must not divide by zero gets for an epsilon of zero
# Lets the native side read tensors by itself; PyTorch has it from 2.10 on.
_EXCHANGE = getattr(Tensor, "__dlpack_c_exchange_api__", None)
# Arguments that are taken for the sake of compatibility; they choose nothing here.
_WITHOUT_EFFECT = ("foreach", "fused", "capturable", "differentiable", "initial_accumulator_value")


@dataclass(slots=True, eq=False)
class _Batch:
    """Tensors of a group that have the same type and have done the same steps: what one native call updates."""

    params: list[Tensor]
    states: list[dict[str, Any]]
    is_double: bool
    t: int
    numbers: dict[str, float]
    table: NDArray[np.int64]  # a row for each tensor: size, whether adapted, addresses of w, g and the states
    kept: NDArray[np.float64] | None
    alive: list[Tensor]  # what the table points to
    once: bool  # some gradient or parameter had to be copied: the table is for one step
    back: list[tuple[Tensor, Tensor]]  # parameters, and where their new values are


@dataclass(slots=True, eq=False)
class _View:
    """A parameter group as it was when its tables were made."""

    group: Group
    size: int
    options: tuple[Any, ...] | None = None  # those that the rule was made of; None: made anew for every step
    rule: Any = None  # one of `popgrad.optim`
    native: tuple[int, tuple[str, ...]] = (0, ())  # its number, and the names of its fields
    idle: list[Tensor] = field(default_factory=list)  # no gradient
    batches: list[_Batch] = field(default_factory=list)


class Optimizer(torch.optim.Optimizer):
    """Base class of all optimizers in `popgrad.torch`: a ``torch.optim.Optimizer`` whose step is native.

    All classes take ``params``, ``lr`` and options as `torch.optim` does, per group where wanted. ``foreach`` and
    ``fused`` have no effect, ``capturable`` and ``differentiable`` must be False.

    State: ``state[p]`` holds tensors with PyTorch's names; the steps done are counted apart, and ``state[p]["step"]``
    is brought up to date whenever ``state`` or ``state_dict()`` is read.

    Raises:
        InputError: an option is out of range, a gradient or parameter is not dense float32 or float64 on the CPU; no
            tensor was changed.
    """

    # A method of `popgrad.optim`; its arguments by PyTorch's name for them; what `state[p]` calls its states and
    # numbers; whether `state[p]` counts steps.
    _method: ClassVar[Any]
    _names: ClassVar[Names] = {}
    _states: ClassVar[Mapping[str, str]] = {}
    _counts: ClassVar[bool] = True
    # Whether numbers are floats of Python, which `load_state_dict` leaves alone; PyTorch's own are tensors, of the
    # parameters' type.
    _exact_numbers: ClassVar[bool] = False

    _views: list[_View] | None = None  # None: what is in `state` counts

    def __init__(self, params: Any, given: Mapping[str, Any]) -> None:
        options = {name: value for name, value in given.items() if name not in ("self", "params", "__class__")}
        self._options = _getter(options)
        super().__init__(params, options)

    # --- What a class may say about its method ---------------------------------------------------------------------

    def _choose(self, group: Group) -> tuple[Any, Names]:
        """The class in `popgrad.optim` that does what the group asks for, and the names of its arguments."""
        return self._method, self._names

    def _members(self, rule: Any, group: Group, t: int, numbers: dict[str, float]) -> dict[str, float]:
        """The members of the native rule at step t; what is to be carried on goes into `numbers`."""
        return cast(dict[str, float], rule._fields(t, numbers))

    def _first(self, name: str, group: Group) -> float:
        """What a state begins with."""
        return 0.0

    def _first_numbers(self, rule: Any, group: Group) -> dict[str, float]:
        """What numbers are carried, and what they begin with."""
        return dict(rule._numbers)

    def _progress(self, rule: Any, group: Group, state: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
        """Steps done and numbers carried, as a parameter's state has them."""
        numbers = self._first_numbers(rule, group)
        return int(state.get("step", 0)), {k: float(state.get(self._states[k], v)) for k, v in numbers.items()}

    # --- Options ---------------------------------------------------------------------------------------------------

    def _fail(self, message: str) -> NoReturn:
        fail(type(self).__name__, message)

    def _make_rule(self, group: Group) -> Any:
        """The method with the group's options."""
        for name in ("capturable", "differentiable"):
            if group.get(name):
                self._fail(f"{name} must be False: a native step leaves no trace for CUDA graphs or autograd")
        for name in ("lr", "eps", "weight_decay", "lr_decay", "dampening", "initial_accumulator_value"):
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
            return method(lambda t: float(group["lr"]), **arguments)
        except InputError as error:
            message = str(error).partition("] ")[2]
            for theirs, ours in names.items():
                if message.split()[0] in ([ours] if isinstance(ours, str) else ours):
                    message = f"{theirs}: {message}" if not isinstance(ours, str) else message.replace(ours, theirs, 1)
                    break
            raise InputError(f"[{type(self).__name__}] {message}") from None

    def add_param_group(self, param_group: Group) -> None:
        """See `torch.optim.Optimizer.add_param_group`.

        Raises:
            InputError: an option is out of range; the group was not added.
        """
        super().add_param_group(param_group)
        try:
            self._make_rule(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    # --- State -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """State by parameter, as PyTorch lays it out. Whoever reads it may change it: the next step looks again."""
        self._flush()
        return cast(defaultdict[Tensor, Any], self.__dict__["state"])

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self._views = None
        self.__dict__["state"] = state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        self._views = None  # before what they count would be written into the new state
        super().__setstate__(state)
        for group in self.param_groups:  # older versions of PyTorch knew fewer options
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self._options = _getter(self.defaults)

    def _flush(self) -> None:
        """Write what is counted apart into the state."""
        views, self._views = self._views, None
        for view in views or ():
            for batch in view.batches:
                for k, state in enumerate(batch.states):
                    if self._counts:
                        state["step"].fill_(batch.t)
                    for name, value in batch.numbers.items():
                        if self._exact_numbers:
                            state[self._states[name]] = value
                        else:
                            state[self._states[name]].fill_(value)
                    if batch.kept is not None:
                        state["kept"] = batch.kept[k].tolist()

    def _state_of(self, p: Tensor, frame: Tensor, rule: Any, group: Group) -> dict[str, Any]:
        """The state of a parameter, made where it is missing, laid out as `frame`."""
        if not (self._counts or rule.state_names):
            return {}  # no empty entries: PyTorch has none
        state = cast(dict[str, Any], self.__dict__["state"][p])
        if self._counts and not isinstance(state.get("step"), Tensor):
            scalar = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
            state["step"] = torch.tensor(float(state.get("step", 0.0)), dtype=scalar)
        for name in rule.state_names:
            known = self._states.get(name, name)
            value = state.get(known)
            if value is None:
                state[known] = torch.full_like(frame, self._first(name, group), requires_grad=False)
                continue
            if value.shape != p.shape:
                self._fail(f"the state {known} of a parameter of shape {tuple(p.shape)} is {tuple(value.shape)}")
            if value.dtype != p.dtype or not _alike(value, frame):
                state[known] = torch.empty_like(frame, requires_grad=False).copy_(value)
        for name, number in self._first_numbers(rule, group).items():
            known = self._states[name]
            if self._exact_numbers:
                state.setdefault(known, number)
            elif not isinstance(state.get(known), Tensor):
                state[known] = torch.tensor(float(state.get(known, number)), dtype=p.dtype)
        if RULES[rule.rule][3] and "kept" not in state:
            state["kept"] = rule._kept()
        return state

    # --- The step --------------------------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Any:
        """Take one step with the gradients that the parameters hold; those without one stay as they are.

        Args:
            closure: computes the loss and the gradients anew; its value is returned.

        Raises:
            InputError: see the class; no tensor was changed.
        """
        # PyTorch's wrapper around a step costs as much as the step of a small model: taken only where it has a use.
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or hooks._global_optimizer_pre_hooks
            or hooks._global_optimizer_post_hooks
            or torch.autograd.profiler._is_profiler_enabled
            or torch.compiler.is_compiling()
        ):
            return _hooked_step(self) if closure is None else _hooked_step(self, closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Closure | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        calls = [(view, batch, *self._call(view, batch)) for view, batch in self._current()]
        once = False
        for view, batch, fields, extras, numbers in calls:
            _core.step_list(view.native[0], fields, batch.is_double, batch.table, extras, batch.kept)
            batch.t += 1
            if numbers:  # of the type in which they are stored, so that they are the same after a checkpoint
                exact = batch.is_double or self._exact_numbers
                batch.numbers = numbers if exact else {k: float(np.float32(v)) for k, v in numbers.items()}
            _changed(batch.params)
            for p, values in batch.back:
                with torch.no_grad():
                    p.copy_(values)
            once |= batch.once
        if once:
            self._flush()
        return loss

    def _current(self) -> list[tuple[_View, _Batch]]:
        """What to update, with the gradients that are there now."""
        views = self._views if self._is_current() else self._arrange()
        return [(view, batch) for view in views or () for batch in view.batches]

    def _call(self, view: _View, batch: _Batch) -> tuple[tuple[float, ...], Any, dict[str, float]]:
        """Fields, extras and numbers of the next step."""
        rule, t, numbers = view.rule, batch.t + 1, dict(batch.numbers)
        members = self._members(rule, view.group, t, numbers)
        extras = rule._extras(None, t)
        if view.group["maximize"]:
            extras = (-1.0, *extras[1:]) if extras is not None else (-1.0, math.inf, 0.0, 0.0, 0.0, 0.0)
        return tuple([members[name] for name in view.native[1]]), extras, numbers

    def _is_current(self) -> bool:
        """Whether groups, parameters and gradients are as in the tables; writes the gradients' addresses there."""
        views = self._views
        if views is None or len(views) != len(self.param_groups):
            return False
        for view, group in zip(views, self.param_groups, strict=True):
            if view.group is not group or view.size != len(group["params"]):
                return False
            if view.options is None or view.options != self._options(group):
                rule = view.rule
                self._set_rule(view)
                if (view.rule.rule, view.rule.state_names) != (rule.rule, rule.state_names):
                    return False
            if not at_least_zero(group["lr"]):
                self._fail(f"lr must be a finite number >= 0, got {group['lr']!r}")
            if view.idle and any(p.grad is not None for p in view.idle):
                return False
            for batch in view.batches:
                if not _gradients(_EXCHANGE, batch.table, batch.is_double, batch.params):
                    return False
        return True

    def _set_rule(self, view: _View) -> None:
        view.rule = self._make_rule(view.group)
        index, _, _, _, _, names = RULES[view.rule.rule]
        view.native = (index, names)
        # What can change in place cannot be compared with what it was.
        options = self._options(view.group)
        view.options = None if any(isinstance(value, Tensor | list) for value in options) else options

    def _arrange(self) -> list[_View]:
        """Look at everything, and make the tables for the gradients that are there now."""
        self._flush()
        views = []
        for group in self.param_groups:
            view = _View(group, len(group["params"]))
            self._set_rule(view)
            for p in group["params"]:
                self._check(p)
                if p.grad is None:
                    view.idle.append(p)
            views.append(view)
        for view in views:
            batches: dict[Any, list[tuple[Tensor, Tensor, dict[str, Any]]]] = {}
            for p in view.group["params"]:
                if p.grad is not None:
                    t, numbers = self._progress(view.rule, view.group, self.__dict__["state"].get(p, {}))
                    frame = p if _is_dense(p) else torch.empty_like(p, requires_grad=False)
                    state = self._state_of(p, frame, view.rule, view.group)
                    batches.setdefault((p.dtype, t, *numbers.items()), []).append((p, frame, state))
            view.batches = [
                _batch(view, t, dict(numbers), members, self._states) for (_, t, *numbers), members in batches.items()
            ]
        self._views = views
        return views

    def _check(self, p: Tensor) -> None:
        gradient = p.grad
        if gradient is None:
            return
        if gradient.layout != torch.strided:
            self._fail(f"gradients must be dense, got {gradient.layout}: use nn.Embedding(sparse=False) and the like")
        for what, tensor in (("parameters", p), ("gradients", gradient)):
            if tensor.dtype not in _DTYPES:
                self._fail(
                    f"{what} must be float32 or float64, got {tensor.dtype}: convert the model, or use torch.optim"
                )
            if tensor.device.type != "cpu":
                self._fail(f"{what} must be on the CPU, got {tensor.device}: move them, or use torch.optim")
            if any(step == 0 and size > 1 for step, size in zip(p.stride(), p.shape, strict=True)):
                self._fail("parameters must not share memory among their elements: clone() what expand() made")
            if tensor.layout != torch.strided or (tensor.numel() and not tensor.data_ptr()):
                self._fail(f"{what} must be dense tensors with memory of their own, got {type(tensor).__name__}")
        if (gradient.dtype, gradient.shape) != (p.dtype, p.shape):
            got = f"{gradient.dtype} {tuple(gradient.shape)} for {p.dtype} {tuple(p.shape)}"
            self._fail(f"a gradient must have its parameter's type and shape, got {got}")


def _batch(
    view: _View,
    t: int,
    numbers: dict[str, float],
    members: list[tuple[Tensor, Tensor, dict[str, Any]]],
    known: Mapping[str, str],
) -> _Batch:
    """A batch of parameters, each with the tensor laid out as its state (itself, where that can be) and its state."""
    rule = view.rule
    names = [known.get(name, name) for name in rule.state_names]
    table = np.empty((len(members), 4 + len(names)), np.int64)
    kept = np.array([state["kept"] for *_, state in members], np.float64) if RULES[rule.rule][3] else None
    params, states = [p for p, *_ in members], [state for *_, state in members]
    batch = _Batch(params, states, params[0].dtype == torch.float64, t, numbers, table, kept, [], False, [])
    for row, (p, frame, state) in zip(table, members, strict=True):
        gradient = cast(Tensor, p.grad)
        if frame is not p:
            frame.copy_(p.detach())
            batch.back.append((p, frame))
        if not _alike(gradient, frame) or gradient.is_neg():
            gradient = torch.empty_like(frame, requires_grad=False).copy_(gradient.detach())
            batch.alive.append(gradient)
        batch.once |= frame is not p or gradient is not p.grad
        tensors = [frame, gradient, *[state[name] for name in names]]
        batch.alive += [frame, *tensors[2:]]
        row[:] = [p.numel(), rule._adapts(p.dim()), *[tensor.data_ptr() for tensor in tensors]]
    return batch


def _hooked(self: Optimizer, closure: Closure | None = None) -> Any:
    return self._step(closure)


# Not to be looked into by torch.compile, to which a native step means nothing.
_hooked_step = _disable_dynamo(torch.optim.Optimizer.profile_hook_step(_hooked))


def _getter(options: Mapping[str, Any]) -> Callable[[Group], tuple[Any, ...]]:
    """Reads from a group what its rule depends on; the learning rate is looked up at every step anyway."""
    return itemgetter(*[name for name in options if name not in ("lr", *_WITHOUT_EFFECT)])


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether the elements of two tensors of the same shape lie in the same order."""
    return a.stride() == b.stride() or (a.is_contiguous() and b.is_contiguous())


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a piece of memory, in any order: then PyTorch makes others just like it."""
    if tensor.is_neg():  # a minus sign that is not yet in the memory
        return False
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def _gradients_slowly(exchange: Any, table: NDArray[np.int64], is_double: bool, params: list[Tensor]) -> bool:
    """What `_core.gradients` does, for a PyTorch that does not let it."""
    dtype = torch.float64 if is_double else torch.float32
    for p, row in zip(params, table.tolist(), strict=True):
        g = p.grad
        if g is None or g.dtype != dtype or g.layout != torch.strided or p.dtype != dtype:
            return False
        if g.shape != p.shape or g.is_neg() or not _alike(g, p) or p.data_ptr() != row[2] or p.numel() != row[0]:
            return False
    table[:, 3] = [cast(Tensor, p.grad).data_ptr() for p in params]
    return True


_gradients = _core.gradients if _EXCHANGE is not None else _gradients_slowly


def _changed(params: list[Tensor]) -> None:
    """Tell autograd, which would not notice: a graph that still needs the old values must not go on silently."""
    try:
        torch.autograd.graph.increment_version(params)  # type: ignore[arg-type, unused-ignore]
    except TypeError:  # PyTorch before 2.5 takes them one by one
        for p in params:
            torch.autograd.graph.increment_version(p)
