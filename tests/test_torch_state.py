"""What a user may do to an optimizer between two steps, at random, against torch.optim.

POPGRAD_SEQUENCES says how many sequences of actions are drawn, 150 unless it is set; always the same ones.
"""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import random
from collections import defaultdict

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import popgrad.torch as pt  # noqa: E402
from popgrad.torch import _tensors  # noqa: E402

SEQUENCES = int(os.environ.get("POPGRAD_SEQUENCES", "150"))
ROUNDS = 8
# Of every class that torch.optim and popgrad.torch have, its variants.
CLASSES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True}),
    ("Adam", {"lr": torch.tensor(0.01), "betas": (torch.tensor(0.8), torch.tensor(0.9))}),
    ("AdamW", {"lr": 0.01, "weight_decay": 1.5}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.01, "betas": (0.9, 0.99)}),
    ("Adamax", {"lr": 0.01, "weight_decay": 0.1}),
    ("Adadelta", {"lr": 0.5}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.8, "centered": True, "alpha": 0.9}),
    ("Rprop", {"lr": 0.01, "step_sizes": (0.0, 50)}),
    ("ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 3}),
]
SHAPES = [(5, 7), (40,), (), (3, 2, 2, 2), (1, 1), (0,), (6, 4)]
# Factors of what is written into states: the second moment must not fall below the square of the first.
FACTOR = defaultdict(lambda: 1.5, grad_avg=0.5, step=2.0, mu_product=0.9, eta=0.9, mu=1.0)


@pytest.fixture(autouse=True)
def _exact_numbers():
    threads, before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # of what PyTorch's NAdam and ASGD carry
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(before)


class World:
    """Optimizers of one library, their parameters, and what the user has kept of them."""

    def __init__(self, module, name, arguments, seed):
        self.make = lambda params: getattr(module, name)(params, **copy.deepcopy(arguments))
        self.numbers = torch.Generator().manual_seed(seed)  # the same draws in both worlds
        params = [self.parameter(shape) for shape in SHAPES[:4]]
        self.optimizers = [self.make([{"params": params[:2]}, {"params": params[2:], "lr": arguments["lr"] * 2}])]
        self.held = []  # entries of states
        self.tensors = []  # their tensors
        self.saved = []  # (state_dict, what it fits)
        self.dtype = torch.float64

    def normal(self, shape, dtype=None):
        return torch.randn(shape, generator=self.numbers, dtype=torch.float64).to(dtype or torch.float64)

    def parameter(self, shape):
        return torch.nn.Parameter(self.normal(shape, getattr(self, "dtype", None)))

    @property
    def groups(self):
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def params(self):
        return [p for group in self.groups for p in group["params"]]

    def owner(self, p):
        return next(o for o in self.optimizers if any(q is p for g in o.param_groups for q in g["params"]))

    def state(self, p):
        return self.owner(p).state.get(p, {})

    @staticmethod
    def state_dict(optimizer):
        """PyTorch makes none while there are states of parameters that have been removed."""
        kept = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for p in [p for p in optimizer.state if id(p) not in kept]:
            del optimizer.state[p]
        return optimizer.state_dict()

    def signature(self, optimizer):
        return [[(tuple(p.shape), p.dtype) for p in group["params"]] for group in optimizer.param_groups]


# --- What may be done. Every action gets a world and draws, which are the same for both worlds. -----------------------


def a_param(world, draw):
    return draw.choice(world.params)


def a_state(world, draw):
    """A parameter, and the name of one of its states, if it has any."""
    p = a_param(world, draw)
    names = sorted(name for name, value in world.state(p).items() if value is not None)
    return p, draw.choice(names) if names else None


def replace_a_parameter(world, draw):
    params = draw.choice([group for group in world.groups if group["params"]])["params"]
    params[draw.randrange(len(params))] = world.parameter(draw.choice(SHAPES))


def swap_parameters(world, draw):
    one, two = (draw.choice(world.optimizers[0].param_groups) for _ in range(2))
    if draw.random() < 0.5:
        one["params"], two["params"] = two["params"], one["params"]
    elif one["params"] and two["params"]:
        i, j = draw.randrange(len(one["params"])), draw.randrange(len(two["params"]))
        one["params"][i], two["params"][j] = two["params"][j], one["params"][i]


def point_elsewhere(world, draw):
    p = a_param(world, draw)
    way = draw.randrange(4)
    if way == 0:
        p.data = p.data * 0.9
    elif way == 1:  # the elements lie in another order
        p.data = p.data.t().contiguous().t() if p.dim() == 2 else p.data.clone()
    elif way == 2 and p.dim() == 4:
        p.data = p.data.to(memory_format=torch.channels_last)
    elif p.dim():  # with gaps
        wide = torch.zeros(*p.shape[:-1], 2 * p.shape[-1], dtype=p.dtype)
        wide[..., ::2] = p.data
        p.data = wide[..., ::2]


def resize(world, draw):
    p = a_param(world, draw)
    world.owner(p).state.pop(p, None)
    p.grad = None
    p.data = world.normal(draw.choice(SHAPES), p.dtype)


def point_a_state_elsewhere(world, draw):
    p, name = a_state(world, draw)
    if name:
        value = world.state(p)[name]
        value.data = value.data * FACTOR[name]


def replace_a_state(world, draw):
    p, name = a_state(world, draw)
    if name:
        value = world.state(p)[name]
        fresh = value * FACTOR[name]
        if draw.random() < 0.3 and value.dim() == 2:
            fresh = fresh.t().contiguous().t()
        world.state(p)[name] = fresh


def write_into_a_state(world, draw):
    p, name = a_state(world, draw)
    if name:
        world.state(p)[name].mul_(FACTOR[name])


def write_into_what_is_held(world, draw):
    if world.held:
        entries = draw.choice(world.held)
        for name in sorted(entries):
            if draw.random() < 0.5 and entries[name] is not None:
                entries[name] = entries[name] * FACTOR[name]
    if world.tensors:
        name, tensor = draw.choice(world.tensors)
        tensor.mul_(FACTOR[name])


def hold(world, draw):
    p, name = a_state(world, draw)
    if name:
        world.held.append(world.state(p))
        world.tensors.append((name, world.state(p)[name]))


def set_the_steps(world, draw):
    p, steps = a_param(world, draw), draw.randrange(60)
    if "step" in world.state(p):
        world.state(p)["step"].fill_(steps)


def forget_a_state(world, draw):
    if draw.random() < 0.7:
        p = a_param(world, draw)
        world.owner(p).state.pop(p, None)
    else:
        draw.choice(world.optimizers).state.clear()


def another_dictionary(world, draw):
    optimizer = draw.choice(world.optimizers)
    state = defaultdict(dict)
    for p in reversed(list(optimizer.state)):
        state[p] = dict(reversed(optimizer.state[p].items()))
    optimizer.state = state


def change_the_type(world, draw):
    if len(world.optimizers) > 1:
        return  # which of their numbers are still shared afterwards depends on the types they had
    world.dtype = torch.float32 if world.dtype == torch.float64 else torch.float64
    for optimizer in world.optimizers:
        for p in [p for group in optimizer.param_groups for p in group["params"]]:
            p.data, p.grad = p.data.to(world.dtype), None
        optimizer.load_state_dict(world.state_dict(optimizer))
    world.held.clear()
    world.tensors.clear()


def save(world, draw):
    optimizer = draw.choice(world.optimizers)
    state = world.state_dict(optimizer)
    world.saved.append((copy.deepcopy(state) if draw.random() < 0.5 else state, world.signature(optimizer)))


def load(world, draw):
    optimizer = draw.choice(world.optimizers)
    way = draw.randrange(4)
    if way == 0:
        optimizer.load_state_dict(world.state_dict(optimizer))
    elif way == 1:
        file = io.BytesIO()
        torch.save(world.state_dict(optimizer), file)
        optimizer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    elif way == 2:  # into one that begins
        groups = [{"params": group["params"]} for group in optimizer.param_groups]
        fresh = world.make(groups)
        fresh.load_state_dict(copy.deepcopy(world.state_dict(optimizer)))
        world.optimizers[world.optimizers.index(optimizer)] = fresh
    else:
        fitting = [state for state, signature in world.saved if signature == world.signature(optimizer)]
        if fitting:
            optimizer.load_state_dict(draw.choice(fitting))


def share_memory(world, draw):
    for p in world.params:
        if p.numel():
            p.share_memory_()
            for value in world.state(p).values():
                value.share_memory_()


def share_states(world, draw):
    """A second optimizer, whose parameters have the states of the first one's."""
    first = world.optimizers[0]
    groups = [{"params": [world.parameter(p.shape) for p in g["params"]]} for g in first.param_groups]
    if len(world.optimizers) > 1 or not all(group["params"] for group in groups):
        return
    second = world.make(groups)
    whole = draw.random() < 0.5
    for one, two in zip(first.param_groups, second.param_groups, strict=True):
        for p, q in zip(one["params"], two["params"], strict=True):
            if p in first.state:
                second.state[q] = first.state[p] if whole else dict(first.state[p])
    world.optimizers.append(second)


def copied(world, draw):
    parts = (world.optimizers, world.held, world.tensors, world.saved)
    new = copy.deepcopy(parts) if draw.random() < 0.5 else pickle.loads(pickle.dumps(parts))
    world.optimizers, world.held, world.tensors, world.saved = new


def add_a_group(world, draw):
    optimizer = draw.choice(world.optimizers)
    if len(optimizer.param_groups) < 4:
        optimizer.add_param_group({"params": [world.parameter(draw.choice(SHAPES))], "lr": 0.02})


def remove(world, draw):
    optimizer = draw.choice(world.optimizers)
    if draw.random() < 0.3 and len(optimizer.param_groups) > 1:
        optimizer.param_groups.pop(draw.randrange(len(optimizer.param_groups)))
    group = draw.choice(optimizer.param_groups)
    if len(group["params"]) > 1 and len(world.params) > 2:
        p = group["params"].pop(draw.randrange(len(group["params"])))
        if draw.random() < 0.5:
            optimizer.state.pop(p, None)


def change_an_option(world, draw):
    group = draw.choice(world.groups)
    name = draw.choice(sorted({"lr", "weight_decay", "betas", "eps", "maximize", "momentum"} & group.keys()))
    if name == "momentum" and not group[name]:
        return
    if name == "betas" and torch.is_tensor(group["betas"][0]):
        group["betas"][0].mul_(0.9)
        return
    group[name] = {
        "lr": draw.choice([0.0, 0.03, -0.01, torch.tensor(0.02)]),
        "weight_decay": draw.choice([0, 0.2, 1.2]),
        "betas": (draw.choice([0.0, 0.5, 0.85]), 0.95),
        "eps": draw.choice([1e-6, 1e-3]),
        "maximize": not group.get("maximize"),
        "momentum": draw.choice([0.5, 1.0]),
    }[name]


ACTIONS = [
    replace_a_parameter,
    swap_parameters,
    point_elsewhere,
    resize,
    point_a_state_elsewhere,
    replace_a_state,
    write_into_a_state,
    write_into_what_is_held,
    hold,
    set_the_steps,
    forget_a_state,
    another_dictionary,
    change_the_type,
    save,
    load,
    share_memory,
    share_states,
    copied,
    add_a_group,
    remove,
    change_an_option,
]


# --- Gradients, steps, comparison ------------------------------------------------------------------------------------


def set_gradients(world, draw):
    for p in world.params:
        way = draw.randrange(8)
        gradient = world.normal(p.shape, p.dtype)
        if way == 0:
            p.grad = None
        elif way == 1 and p.grad is not None and p.grad.is_contiguous() and p.grad.shape == p.shape:
            p.grad.mul_(-0.7)  # the same tensor
        elif way == 2 and p.dim() == 2:
            p.grad = world.normal(p.shape[::-1], p.dtype).t()
        elif way == 3 and p.dim():
            p.grad = gradient[..., :1].expand(p.shape)
        else:
            p.grad = gradient


def close(ours, theirs, tolerance, what, check_dtype=True):
    message = f"{what}: {ours} is not {theirs}"
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=message, check_dtype=check_dtype)


def assert_same(ours, theirs, tolerance):
    assert len(ours.params) == len(theirs.params)
    for p, q in zip(ours.params, theirs.params, strict=True):
        close(p.detach(), q.detach(), tolerance, "parameter")
        a, b = ours.state(p), theirs.state(q)
        assert a.keys() == b.keys()
        for name, value in b.items():
            close(a[name], value, tolerance, f"state {name}", check_dtype=name == "step")
    for (name, one), (_, two) in zip(ours.tensors, theirs.tensors, strict=True):
        close(one, two, tolerance, f"held {name}", check_dtype=False)


def play(name, arguments, seed):
    """One sequence in both worlds; the actions taken."""
    worlds = [World(module, name, arguments, seed) for module in (pt, torch.optim)]
    draws = random.Random(f"{name} {arguments} {seed}")
    log, tolerance = [], 1e-6
    try:
        for _ in range(ROUNDS):
            for action in draws.choices(ACTIONS, k=draws.randrange(4)):
                log.append(action.__name__)
                key = draws.random()
                for world in worlds:
                    action(world, random.Random(key))
            key = draws.random()
            for world in worlds:
                set_gradients(world, random.Random(key))
                for optimizer in world.optimizers:
                    optimizer.step()
            log.append("step")
            if worlds[0].dtype == torch.float32:
                tolerance = 1e-4  # from here on they differ by what floats round
            assert_same(*worlds, tolerance)
    except Exception as error:
        error.add_note(f"{name} {arguments}, seed {seed}: {', '.join(log)}")
        raise
    return log


@pytest.mark.parametrize(
    ("name", "arguments"), CLASSES, ids=[f"{name}-{'-'.join(arguments)}" for name, arguments in CLASSES]
)
def test_whatever_is_done_between_two_steps(name, arguments, monkeypatch):
    for seed in range(-(-SEQUENCES // len(CLASSES))):
        with monkeypatch.context() as patch:
            if seed % 4 == 3:
                patch.setattr(_tensors, "gather", _tensors.gather_slowly)
            assert play(name, arguments, seed).count("step") == ROUNDS  # `play` compares the two after each


def test_every_action_is_drawn():
    counts = itertools.chain.from_iterable(play(*CLASSES[3], seed) for seed in range(20))
    assert {action.__name__ for action in ACTIONS} <= set(counts)
