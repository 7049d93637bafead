"""What a user may do to an optimizer between two steps, one action at a time: values worked out by hand."""

from __future__ import annotations

from collections import defaultdict

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import popgrad.torch as pt  # noqa: E402
from popgrad.torch import _tensors  # noqa: E402


def ones(n=1):
    p = torch.nn.Parameter(torch.ones(n))
    p.grad = torch.ones(n)
    return p


@pytest.fixture(params=["natively", "slowly"])
def _both_ways(request, monkeypatch):
    if request.param == "slowly":
        monkeypatch.setattr(_tensors, "gather", _tensors.gather_slowly)


@pytest.mark.usefixtures("_both_ways")
def test_a_parameter_that_is_replaced_is_trained():
    a, b = ones(), ones()
    optimizer = pt.SGD([a], lr=0.1)
    optimizer.step()
    optimizer.param_groups[0]["params"][0] = b
    for _ in range(2):
        optimizer.step()
    assert a.item() == pytest.approx(0.9)
    assert b.item() == pytest.approx(0.8)


@pytest.mark.usefixtures("_both_ways")
def test_memory_of_states_is_looked_up_in_every_step():
    a = ones(4)
    optimizer = pt.SGD([a], lr=1.0, momentum=0.5)
    optimizer.step()
    v = optimizer.state[a]["momentum_buffer"]
    optimizer.step()
    v.data = torch.zeros(4)
    optimizer.step()
    assert optimizer.state[a]["momentum_buffer"] is v
    assert v.tolist() == [1.0] * 4  # 0.5 * 0 + 1
    assert a.tolist() == [1 - 1 - 1.5 - 1] * 4


@pytest.mark.usefixtures("_both_ways")
def test_state_is_live():
    a = ones(2)
    optimizer = pt.Adam([a])
    optimizer.step()
    entries, saved = optimizer.state[a], optimizer.state_dict()
    assert type(optimizer.__dict__["state"]) is defaultdict
    assert type(entries) is dict
    counter = entries["step"]
    assert (counter.device.type, counter.shape, counter.item()) == ("cpu", (), 1)
    optimizer.step()
    assert entries["step"] is counter
    assert saved["state"][0]["step"].item() == counter.item() == 2
    entries["step"] = torch.tensor(41.0)
    optimizer.step()
    assert optimizer.state[a]["step"].item() == 42
    assert counter.item() == 2


@pytest.mark.parametrize("shape", [(4,), (6, 4)])
def test_a_state_of_another_layout_is_written_where_it_lies(shape):
    """Somebody may hold it, or share its memory."""
    a = torch.nn.Parameter(torch.zeros(shape))
    optimizer = pt.SGD([a], lr=1.0, momentum=0.5)
    wide = torch.zeros(*shape[:-1], 2 * shape[-1])
    held = wide[..., ::2]
    optimizer.state[a]["momentum_buffer"] = held
    a.grad = torch.ones(shape)
    for _ in range(2):
        optimizer.step()
    assert optimizer.state[a]["momentum_buffer"] is held
    assert (wide[..., ::2] == 1.5).all()
    assert (wide[..., 1::2] == 0).all()


def test_workers_share_a_state():
    """The second worker's first step is the third of the state that both have."""
    results = []
    for module in (pt, torch.optim):
        params = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
        optimizers = [module.Adam([p], lr=0.1) for p in params]
        params[0].grad = torch.ones(3)
        optimizers[0].step()
        for value in optimizers[0].state[params[0]].values():
            value.share_memory_()
        optimizers[1].state[params[1]] = dict(optimizers[0].state[params[0]])
        optimizers[0].step()
        params[1].grad = torch.full((3,), 0.1)
        optimizers[1].step()
        optimizers[0].step()
        assert [o.state[p]["step"].item() for o, p in zip(optimizers, params, strict=True)] == [4, 4]
        results.append(torch.stack([p.detach() for p in params]))
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.usefixtures("_both_ways")
def test_a_parameter_may_be_there_twice():
    results = []
    for module in (pt, torch.optim):
        a, b = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(5))
        optimizer = module.Adam([{"params": [a, b, a]}, {"params": [torch.nn.Parameter(torch.zeros(2))]}], lr=0.1)
        for p in (a, b):
            p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.param_groups[1]["params"][0] = b
        optimizer.step()
        results.append((a.detach(), b.detach(), optimizer.state[a]["step"], optimizer.state[b]["step"]))
    torch.testing.assert_close(*results)
    assert results[0][2] == 4


@pytest.mark.parametrize("name", ["Adam", "NAdam", "ASGD", "Adagrad", "NovoGrad", "Prodigy", "ScheduleFreeAdamW"])
def test_numbers_are_on_the_cpu(name):
    """Whatever the default device is when they are made; the meta device stands for one that is away."""
    params = [torch.nn.Parameter(torch.ones(3, device="cpu"))]
    with torch.device("meta"):
        optimizer = getattr(pt, name)(params)
        params[0].grad = torch.ones(3, device="cpu")
        optimizer.step()
        loaded = getattr(pt, name)(params)
        loaded.load_state_dict(optimizer.state_dict())
        loaded.step()
    assert {value.device.type for value in loaded.state[params[0]].values()} == {"cpu"}
    assert loaded.state[params[0]]["step"] == 2


@pytest.mark.parametrize("name", [n for n in pt.__all__ if isinstance(getattr(pt, n), type) and n != "Optimizer"])
def test_states_are_tensors(name):
    """Flattened checkpoints take tensors, and numbers of Python; no lists."""
    from torch.distributed.checkpoint import state_dict as distributed

    a = ones(4)
    optimizer = getattr(pt, name)([a])
    optimizer.step()
    assert all(torch.is_tensor(value) for value in optimizer.state.get(a, {}).values())
    model = torch.nn.Module()
    model.a = a
    options = distributed.StateDictOptions(flatten_optimizer_state_dict=True)
    for _ in range(2):  # what was loaded can be loaded again
        flat = distributed.get_optimizer_state_dict(model, optimizer, options=options)
        distributed.set_optimizer_state_dict(model, optimizer, flat, options=options)
    before = a.detach().clone()
    a.grad = torch.ones(4)
    optimizer.step()
    assert not torch.equal(a, before)
