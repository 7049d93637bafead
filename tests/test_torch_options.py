"""Options and checkpoints of popgrad.torch, as clients of torch.optim use them."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import popgrad as pg  # noqa: E402
import popgrad.torch as pt  # noqa: E402

ALL = sorted(n for n in pt.__all__ if isinstance(getattr(pt, n), type) and n != "Optimizer")
IN_TORCH = [name for name in ALL if hasattr(torch.optim, name)]


def parameter(n=3, value=1.0, dtype=None):
    p = torch.nn.Parameter(torch.full((n,), value, dtype=dtype))
    p.grad = torch.ones_like(p)
    return p


def both(name, steps=5, value=1.0, dtype=None, change=lambda optimizer: None, **arguments):
    """The parameter after some steps of ours and of PyTorch's."""
    results = []
    for module in (pt, torch.optim):
        p = parameter(value=value, dtype=dtype)
        optimizer = getattr(module, name)([p], **copy.deepcopy(arguments))
        change(optimizer)
        for t in range(steps):
            p.grad = torch.full_like(p, (-1.0) ** (t // 2) * (t + 1))
            optimizer.step()
        results.append(p.detach())
    return results


# --- Wrappers --------------------------------------------------------------------------------------------------------


class Forwarding:
    """Lightning's and Fabric's way: an object that passes for the optimizer and has nothing of it but a reference."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__class__ = type("Forwarding" + type(optimizer).__name__, (type(self), type(optimizer)), {})

    def __getattr__(self, name):
        return getattr(self._optimizer, name)

    def step(self, closure=None):
        return self._optimizer.step(closure)


class Sharing:
    """The older way: most of the attributes are copied."""

    def __init__(self, optimizer):
        self.__dict__ = {k: v for k, v in optimizer.__dict__.items() if k not in ("step", "state_dict")}
        self.__class__ = type("Sharing" + type(optimizer).__name__, (type(self), type(optimizer)), {})
        self.optimizer = optimizer

    def step(self, closure=None):
        return self.optimizer.step(closure)


@pytest.mark.parametrize("wrap", [Forwarding, Sharing])
@pytest.mark.parametrize("name", ALL)
def test_wrappers_that_pass_for_the_optimizer(name, wrap):
    p, q = parameter(), parameter()
    plain, optimizer = getattr(pt, name)([p]), getattr(pt, name)([q])
    wrapped = wrap(optimizer)
    assert isinstance(wrapped, getattr(pt, name))
    for _ in range(3):
        plain.step()
        wrapped.step()
        wrapped.zero_grad()
        p.grad, q.grad = torch.ones(3), torch.ones(3)
    assert wrapped.state is optimizer.state
    assert torch.equal(p, q)
    assert str(wrapped.state_dict()) == str(plain.state_dict())
    wrapped.param_groups[0]["lr"] = 0.0
    optimizer.load_state_dict(wrapped.state_dict())
    scheduler = pt.lr_scheduler.StepLR(optimizer, 1, 0.5)
    wrapped.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0


def test_a_wrapper_whose_own_step_is_the_optimizers():
    """What has all attributes but was never constructed steps as the optimizer does."""
    p, q = parameter(), parameter()
    plain, optimizer = pt.Adam([p]), pt.Adam([q])
    twin = pt.Adam.__new__(pt.Adam)
    twin.__dict__ = {k: v for k, v in optimizer.__dict__.items() if not k.startswith("_plans")}
    for _ in range(2):
        plain.step()
        plain.step()
        twin.step()
        optimizer.step()
    assert torch.equal(p, q)
    assert optimizer.state[q]["step"] == 4


# --- Checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_loading_leaves_the_names_of_options(name):
    optimizer = getattr(pt, name)([parameter()])
    fresh, defaults = list(optimizer.param_groups[0]), list(optimizer.defaults)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    for one in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert sorted(one.param_groups[0]) == sorted(fresh)
        assert sorted(one.defaults) == sorted(defaults)
        one.add_param_group({"params": [parameter()]})
        assert sorted(one.param_groups[1]) == sorted(fresh)
    old = optimizer.state_dict()
    for group in old["param_groups"]:
        group["differentiable"] = False  # as an earlier version has left it
        group["name"] = "mine"
    optimizer.load_state_dict(old)
    assert sorted(optimizer.param_groups[0]) == sorted({*fresh, "name"})


FOREIGN = [
    ("Adam", "SGD"),
    ("SGD", "Adam"),
    ("RMSprop", "Adagrad"),
    ("Adam", "NAdam"),
    ("Lion", "Adam"),
    ("Adam", "Lion"),
]


@pytest.mark.parametrize(("source", "target"), FOREIGN)
def test_a_checkpoint_of_another_method_is_refused(source, target):
    p, q = parameter(), parameter()
    other = getattr(pt, source)([p], **({"momentum": 0.9} if source == "SGD" else {}))
    optimizer = getattr(pt, target)([q])
    other.step()
    before = (str(optimizer.state_dict()), len(optimizer._optimizer_load_state_dict_pre_hooks))
    with pytest.raises(pg.InputError, match=rf"\[{target}\] the state to load must be from the same method, .* got .*"):
        optimizer.load_state_dict(other.state_dict())
    assert (str(optimizer.state_dict()), len(optimizer._optimizer_load_state_dict_pre_hooks)) == before


def test_a_subclass_may_have_names_of_its_own():
    class Mine(pt.Adam):
        def step(self, closure=None):
            result = super().step(closure)
            for p in self.param_groups[0]["params"]:
                self.state[p]["prev"] = p.grad.clone()  # as Rprop calls its gradient
            return result

    optimizer = Mine([p := parameter()])
    optimizer.step()
    fresh = Mine([parameter()])
    fresh.load_state_dict(optimizer.state_dict())
    fresh.step()
    assert torch.equal(fresh.state[fresh.param_groups[0]["params"][0]]["prev"], p.grad)
    with pytest.raises(pg.InputError, match="from the same method"):
        fresh.load_state_dict({"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"params": [0]}]})


@pytest.mark.parametrize("name", IN_TORCH)
def test_methods_of_torch_are_there(name):
    """What torch.optim's class can be asked to do."""
    theirs = {k for k in dir(getattr(torch.optim, name)) if not k.startswith("_")}
    assert theirs <= set(dir(getattr(pt, name)))


def test_adagrad_shares_memory():
    optimizer = pt.Adagrad([p := parameter()])
    optimizer.share_memory()
    assert optimizer.state[p]["sum"].is_shared()
    optimizer.step()
    assert optimizer.state[p]["sum"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", IN_TORCH)
def test_checkpoints_that_belong(name):
    """PyTorch's own, of every variant, with additions of the user's, and what the user's hooks make of others."""
    variants = {"SGD": [{"momentum": 0.9}], "RMSprop": [{"momentum": 0.9}, {"centered": True}]}
    for arguments in ({}, *variants.get(name, []), *[{"amsgrad": True}] * (name in ("Adam", "AdamW"))):
        p = parameter()
        theirs = getattr(torch.optim, name)([p], **arguments)
        theirs.step()
        theirs.state[p]["mine"] = torch.zeros(2)
        ours = getattr(pt, name)([q := parameter()], **arguments)
        ours.load_state_dict(theirs.state_dict())
        assert ours.state[q].keys() == theirs.state[p].keys()
        ours.step()
        assert ours.state[q]["mine"].tolist() == [0, 0]
    foreign = pt.SophiaG([parameter()])
    foreign.step()

    def translate(optimizer, state):
        return state | {"state": {}}

    ours.register_load_state_dict_pre_hook(translate)
    ours.load_state_dict(foreign.state_dict() | {"param_groups": ours.state_dict()["param_groups"]})
    assert not ours.state


@pytest.mark.parametrize("name", ["NovoGrad", "Prodigy"])
def test_lists_of_earlier_checkpoints(name):
    """What a tensor has as a whole was a list called "kept"."""
    p, q = parameter(), parameter()
    whole, resumed = getattr(pt, name)([p]), getattr(pt, name)([q])
    for _ in range(3):
        whole.step()
        resumed.step()
    names = {"NovoGrad": ["exp_avg_sq"], "Prodigy": ["d", "d_max", "d_numerator"]}[name]
    old = copy.deepcopy(resumed.state_dict())
    old["state"][0]["kept"] = [old["state"][0].pop(k).item() for k in names]
    old["state"][0]["step"] = 3
    loaded = getattr(pt, name)([q])
    loaded.load_state_dict(old)
    assert loaded.state[q]["step"].item() == 3
    assert all(loaded.state[q][k].dtype == torch.float64 for k in names)
    assert "kept" not in loaded.state[q]
    whole.step()
    loaded.step()
    assert torch.equal(p, q)


# --- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_tensors_of_betas_changed_in_place(name):
    def change(optimizer):
        optimizer.step()
        for beta in optimizer.param_groups[0]["betas"]:
            beta.mul_(0.5)

    ours, theirs = both(name, betas=(torch.tensor(0.9), torch.tensor(0.99)), lr=0.1, change=change)
    torch.testing.assert_close(ours, theirs)


def test_lists_of_the_callers_are_copied():
    betas, own = [0.9, 0.99], [0.5, 0.99]
    optimizer = pt.Adam([{"params": [parameter()]}, {"params": [parameter()], "betas": own}], betas=betas)
    betas[0] = own[0] = 0.1
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.99), (0.5, 0.99)]
    assert optimizer.defaults["betas"] == (0.9, 0.99)
    optimizer.param_groups[0]["betas"] = (0.8, 0.9)
    optimizer.step()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("AdamW", {"weight_decay": 1.0, "lr": 0.1}),
        ("AdamW", {"weight_decay": 15.0, "lr": 0.1}),
        ("Adam", {"weight_decay": 2.0, "lr": 0.1, "decoupled_weight_decay": True}),
        ("NAdam", {"weight_decay": 2.0, "lr": 0.1, "decoupled_weight_decay": True}),
        ("RAdam", {"weight_decay": 2.0, "lr": 0.1, "decoupled_weight_decay": True}),
        ("Rprop", {"step_sizes": (0, 50)}),
        ("SGD", {"momentum": 1.0, "lr": 0.1}),
        ("SGD", {"momentum": 1.0, "nesterov": True, "lr": 0.1}),
        ("SGD", {"momentum": 0.5, "dampening": 1.0, "lr": 0.1}),
        ("RMSprop", {"momentum": 1.0}),
        ("RMSprop", {"alpha": 1.0, "eps": 0.1}),
        ("Adadelta", {"rho": 1.0}),
        ("ASGD", {"lambd": 1.5, "lr": 0.1}),
        ("ASGD", {"alpha": 0.0, "lr": 0.1}),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_takes_what_torch_takes(name, arguments):
    torch.testing.assert_close(*both(name, dtype=torch.float64, **arguments), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adamax", "ASGD"])
def test_a_group_may_go_up(name):
    """A negative lr is refused for all groups, as in PyTorch, and taken for one."""
    with pytest.raises(pg.InputError, match=rf"\[{name}\] lr must be a finite number >= 0, got -0.1"):
        getattr(pt, name)([parameter()], lr=-0.1)

    def change(optimizer):
        optimizer.param_groups[0]["lr"] = -0.1

    torch.testing.assert_close(*both(name, weight_decay=0.1, dtype=torch.float64, change=change), rtol=1e-6, atol=1e-9)
    optimizer = getattr(pt, name)([{"params": [parameter()], "lr": -0.1}])
    optimizer.add_param_group({"params": [parameter()], "lr": -0.1})
    for bad in (float("nan"), float("inf"), torch.tensor(float("nan")), "fast", None):
        optimizer.param_groups[1]["lr"] = bad
        before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
        with pytest.raises(pg.InputError, match=rf"\[{name}\] lr must be a finite number, got"):
            optimizer.step()
        assert all(map(torch.equal, before, (p for group in optimizer.param_groups for p in group["params"])))


@pytest.mark.parametrize(
    ("name", "arguments"), [("Adam", {}), ("Adam", {"amsgrad": True}), ("RMSprop", {"alpha": 0.5})]
)
def test_tiny_gradients_and_a_tiny_epsilon(name, arguments):
    """Their squares are denormal floats, which count: Adam goes by the learning rate."""
    results = []
    for module in (pt, torch.optim):
        p = parameter(value=0.0)
        optimizer = getattr(module, name)([p], lr=1.0, eps=1e-30, **arguments)
        for _ in range(5):
            p.grad = torch.full_like(p, 1e-19)
            optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results, rtol=1e-3, atol=0)
    if name == "Adam":
        assert results[0][0].item() == pytest.approx(-5, rel=1e-3)


def test_an_array_for_betas():
    optimizer = pt.Adam([p := parameter()])
    optimizer.step()
    optimizer.param_groups[0]["betas"] = torch.tensor([0.5, 0.9])
    optimizer.step()
    optimizer.param_groups[0]["betas"][0] = 0.6
    optimizer.step()
    assert optimizer.state[p]["exp_avg"][0].item() == pytest.approx((0.1 * 0.5 + 0.5) * 0.6 + 0.4)
