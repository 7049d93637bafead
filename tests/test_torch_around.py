"""What PyTorch does around a step of popgrad.torch: hooks, profiles, compilation, processes."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import weakref

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402

import popgrad.torch as pt  # noqa: E402
from torch_cases import (  # noqa: E402
    _scalars_are_double,  # noqa: F401
    assert_equal,
    assert_same_state,
    drive,
    parameters,
)


def test_hooks():
    seen = []
    optimizer = pt.Adam(parameters())
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before")),
        optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(o.state[o.param_groups[0]["params"][0]])),
        optimizer.register_state_dict_post_hook(lambda o, state: state | {"more": 1}),
    ]
    drive(1, optimizer)
    assert seen[0] == "before"
    assert seen[1]["step"] == 1
    assert optimizer.state_dict()["more"] == 1
    for handle in handles:
        handle.remove()
    drive(1, optimizer)
    assert len(seen) == 2
    handle = register_optimizer_step_post_hook(lambda o, args, kwargs: seen.append(args))
    drive(1, optimizer)
    handle.remove()
    assert seen[2] == (optimizer,)


def test_profiler_shows_the_step():
    optimizer = pt.Adam(parameters())
    with torch.profiler.profile() as profile:
        drive(1, optimizer)
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}


@pytest.mark.filterwarnings("ignore")
def test_inside_a_compiled_function():
    models = [torch.nn.Linear(3, 2)]
    models.append(copy.deepcopy(models[0]))
    optimizers = [
        module.Adam(model.parameters(), lr=0.1) for module, model in zip((pt, torch.optim), models, strict=True)
    ]

    def train(x):
        optimizers[0].zero_grad()
        loss = (models[0](x) ** 2).mean()
        loss.backward()
        optimizers[0].step()
        return loss

    compiled, x = torch.compile(train, backend="eager"), torch.ones(4, 3)
    for _ in range(3):
        compiled(x)
        optimizers[1].zero_grad()
        (models[1](x) ** 2).mean().backward()
        optimizers[1].step()
    assert_equal(models[0].parameters(), list(models[1].parameters()))
    assert_same_state(*optimizers)


def test_autograd_notices():
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = pt.SGD([w])
    loss = (w**2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_zero_grad_to_none_and_to_zero():
    optimizer = pt.SGD(params := parameters(), lr=0.1)
    for set_to_none in (True, False, True):
        optimizer.zero_grad(set_to_none=set_to_none)
        sum((p**2).sum() for p in params).backward()
        optimizer.step()
    for p, first in zip(params, parameters(), strict=True):
        torch.testing.assert_close(p.detach(), first.detach() * 0.8**3)


def test_subclass():
    class Noisy(pt.Adam):
        def step(self, closure=None):
            self.calls = getattr(self, "calls", 0) + 1
            return super().step(closure)

    optimizer = Noisy(parameters())
    drive(2, optimizer)
    assert optimizer.calls == 2
    assert "lr: 0.001" in repr(optimizer)


def test_averaged_models_and_clipping():
    model = torch.nn.Linear(3, 1)
    averaged = pt.swa_utils.AveragedModel(model)
    optimizer = pt.AdamW(model.named_parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        averaged.update_parameters(model)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_no_gradient_is_kept_alive():
    optimizer = pt.Adam(params := [torch.nn.Parameter(torch.randn(4, 4).t()), torch.nn.Parameter(torch.randn(4))])
    for p in params:
        p.grad = torch.ones(p.shape)  # the first lies in another way than its parameter
    gradients = [weakref.ref(p.grad) for p in params]
    optimizer.step()
    optimizer.zero_grad()
    assert [g() for g in gradients] == [None, None]
    gc.disable()  # freed as soon as nobody holds it, as PyTorch's: its state is large
    try:
        gone = weakref.ref(optimizer)
        del optimizer
        assert gone() is None
    finally:
        gc.enable()


def test_import_without_torch():
    code = "import sys; sys.modules['torch'] = None; import popgrad; import popgrad.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'ImportError: popgrad.torch needs PyTorch: pip install "popgrad[torch]"' in done.stderr
