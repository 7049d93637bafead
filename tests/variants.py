"""Optimizers with options, each where another library has it, and with what ``matches`` sets; formulas: cases.py."""

from __future__ import annotations

from cases import (
    Rule,
    adabelief,
    adadelta,
    adagrad,
    adam,
    adamax,
    adamw,
    adan,
    ademamix,
    adopt,
    amsgrad,
    asgd,
    heavy_ball,
    lamb,
    lars,
    lars_of_the_sum,
    lion,
    momentum,
    nadam,
    nesterov,
    novograd,
    prodigy,
    radam,
    rmsprop,
    rprop,
    schedule_free,
    schedule_free_adamw,
    sgd,
    sign_sgd,
    signum,
    yogi,
)
from popgrad import optim


def falling(t):
    """A learning rate that tells a velocity with the rate inside from one without."""
    return 0.1 / (1 + 0.2 * t)


def cooling(t):
    """A learning rate that tells a schedule that is called with 0 at the first step from one called with 1."""
    return 0.01 / (1 + 0.2 * t)


COUPLED, DECOUPLED = {"weight_decay": 0.3}, {"weight_decay": 0.3, "weight_decay_mode": "decoupled"}
_L2 = ("add_decayed_weights", {"weight_decay": 0.3})  # optax, before a rule: coupled
_KERAS = {"learning_rate": 0.01, "weight_decay": 0.3}  # decoupled
_OPTAX = {"learning_rate": 0.01, "weight_decay": 0.3}
_ROOT = {"epsilon": 0.0, "epsilon_root": 1e-7}  # Keras' epsilon

# The options, each where another library has it, and the ways to decay weights. Learning rate 0.01 unless momentum is
# compared, so that what float does to the scalars of a library stays below the tolerance.
VARIANTS = [
    Rule(optim.LARS(10.0), lars, optax=[("lars", {"learning_rate": 10.0})]),
    Rule(
        optim.LARS(10.0, weight_decay=0.3, weight_decay_mode="coupled"),
        lars_of_the_sum,
        optax=[("lars", {"learning_rate": 10.0, "weight_decay": 0.3})],
    ),
    Rule(optim.LAMB(0.01, epsilon=1e-7), lamb, keras=("Lamb", {"learning_rate": 0.01})),
    Rule(
        optim.Prodigy(start=1e-3, bias_correction=True, weight_decay=0.3),
        prodigy,
        optax=[("contrib.prodigy", {"estim_lr0": 1e-3, "weight_decay": 0.3})],
    ),
    Rule(optim.SGD(0.1, **COUPLED), sgd, ("SGD", {"lr": 0.1, **COUPLED}), [_L2, ("sgd", {"learning_rate": 0.1})]),
    Rule(optim.SGD(0.01, **DECOUPLED), sgd, keras=("SGD", _KERAS)),
    Rule(
        optim.Momentum(0.1, 0.9, **COUPLED),
        momentum,
        ("SGD", {"lr": 0.1 * (1 - 0.9), "momentum": 0.9, **COUPLED}),
        [_L2, ("ema", {"decay": 0.9, "debias": False}), ("scale", {"step_size": -0.1})],
    ),
    Rule(
        optim.HeavyBall(0.1, 0.8, dampening=0.3, **COUPLED),
        heavy_ball,
        ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, **COUPLED}),
    ),
    Rule(
        optim.HeavyBall(falling, 0.8),
        heavy_ball,
        ("SGD", {"momentum": 0.8}),
        [("sgd", {"learning_rate": falling, "momentum": 0.8})],
    ),
    Rule(
        optim.HeavyBall(falling, 0.8, rate_inside=True, **DECOUPLED),
        heavy_ball,
        keras=("SGD", {"momentum": 0.8, "weight_decay": 0.3}),
    ),
    Rule(
        optim.Nesterov(falling, 0.8, **COUPLED),
        nesterov,
        ("SGD", {"momentum": 0.8, "nesterov": True, **COUPLED}),
        [_L2, ("sgd", {"learning_rate": falling, "momentum": 0.8, "nesterov": True})],
    ),
    Rule(
        optim.Nesterov(falling, 0.8, rate_inside=True, **DECOUPLED),
        nesterov,
        keras=("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.3}),
    ),
    Rule(optim.SignSGD(0.01, **COUPLED), sign_sgd, optax=[_L2, ("sign_sgd", {"learning_rate": 0.01})]),
    Rule(optim.Signum(0.01, **COUPLED), signum, optax=[_L2, ("signum", {"learning_rate": 0.01})]),
    # optax 0.2.8 applies the step before the newest (its pull request 1725), so that it has no reference for this.
    Rule(
        optim.Rprop(0.02, 0.4, 1.3, 1e-3, 0.05),
        rprop,
        ("Rprop", {"lr": 0.02, "etas": (0.4, 1.3), "step_sizes": (1e-3, 0.05)}),
    ),
    Rule(
        optim.ASGD(0.01, decay=0.01, power=0.5, begin=3, **COUPLED),
        asgd,
        ("ASGD", {"lr": 0.01, "lambd": 0.01, "alpha": 0.5, "t0": 3, **COUPLED}),
    ),
    Rule(
        optim.AdaGrad(0.01, initial=0.1, rate_decay=0.05, **COUPLED),
        adagrad,
        ("Adagrad", {"lr": 0.01, "initial_accumulator_value": 0.1, "lr_decay": 0.05, **COUPLED}),
    ),
    Rule(
        optim.AdaGrad(0.1, initial=0.01, **_ROOT),
        adagrad,
        optax=[("adagrad", {"learning_rate": 0.1, "initial_accumulator_value": 0.01})],
        keras=("Adagrad", {"learning_rate": 0.1, "initial_accumulator_value": 0.01}),
    ),
    Rule(optim.AdaGrad(0.01, initial=0.1, **_ROOT, **DECOUPLED), adagrad, keras=("Adagrad", _KERAS)),
    Rule(
        optim.RMSprop(0.01, momentum=0.8, centered=True, **COUPLED),
        rmsprop,
        ("RMSprop", {"lr": 0.01, "momentum": 0.8, "centered": True, **COUPLED}),
    ),
    Rule(
        optim.RMSprop(0.01, 0.9, initial=1.0, **_ROOT),
        rmsprop,
        optax=[("rmsprop", {"learning_rate": 0.01, "eps": 1e-7, "initial_scale": 1.0})],
    ),
    Rule(optim.RMSprop(0.01, 0.9, **_ROOT, **DECOUPLED), rmsprop, keras=("RMSprop", _KERAS)),
    Rule(
        optim.RMSprop(0.01, 0.9, centered=True, **_ROOT),
        rmsprop,
        optax=[("rmsprop", {"learning_rate": 0.01, "eps": 1e-7, "centered": True})],
        keras=("RMSprop", {"learning_rate": 0.01, "centered": True}),
    ),
    Rule(
        optim.RMSprop(falling, momentum=0.8),
        rmsprop,
        ("RMSprop", {"momentum": 0.8}),
    ),
    Rule(
        optim.RMSprop(falling, 0.9, momentum=0.8, rate_inside=True, **_ROOT),
        rmsprop,
        optax=[("rmsprop", {"learning_rate": falling, "eps": 1e-7, "momentum": 0.8})],
        keras=("RMSprop", {"momentum": 0.8}),
    ),
    Rule(
        optim.RMSprop(falling, 0.9, momentum=0.8, centered=True, rate_inside=True, **_ROOT, **DECOUPLED),
        rmsprop,
        keras=("RMSprop", {"momentum": 0.8, "centered": True, "weight_decay": 0.3}),
    ),
    Rule(
        optim.AdaDelta(1.0, **COUPLED),
        adadelta,
        ("Adadelta", {"lr": 1.0, **COUPLED}),
        [("adadelta", {"learning_rate": 1.0, "weight_decay": 0.3})],
    ),
    Rule(optim.AdaDelta(0.01, 0.95, 1e-7, **DECOUPLED), adadelta, keras=("Adadelta", _KERAS)),
    Rule(
        optim.Adam(0.01, **COUPLED),
        adam,
        ("Adam", {"lr": 0.01, **COUPLED}),
        [_L2, ("adam", {"learning_rate": 0.01})],
    ),
    Rule(optim.Adam(0.01, epsilon_root=1e-8), adam, optax=[("adam", {"learning_rate": 0.01, "eps_root": 1e-8})]),
    Rule(
        optim.Adam(0.01, epsilon=1e-7, bias_correction="rate", **DECOUPLED),
        adam,
        keras=("Adam", _KERAS),
    ),
    # RMSprop with optax' bias correction is Adam without momentum.
    Rule(
        optim.Adam(0.01, beta1=0.0, beta2=0.9, **_ROOT),
        adam,
        optax=[("rmsprop", {"learning_rate": 0.01, "eps": 1e-7, "bias_correction": True})],
    ),
    Rule(optim.Adam(0.01, bias_correction="none"), adam),
    Rule(
        optim.AdamW(0.01, weight_decay=0.3, **_ROOT),
        adamw,
        optax=[("adamw", {**_OPTAX, "eps": 0.0, "eps_root": 1e-7})],
    ),
    Rule(
        optim.AdamW(0.01, epsilon=1e-7, bias_correction="rate", weight_decay=0.3),
        adamw,
        keras=("AdamW", _KERAS),
    ),
    Rule(
        optim.AMSGrad(0.01, weight_decay=0.3, weight_decay_mode="coupled"),
        amsgrad,
        ("Adam", {"lr": 0.01, "amsgrad": True, **COUPLED}),
    ),
    Rule(
        optim.AMSGrad(0.01, maximum="corrected", epsilon_root=1e-8),
        amsgrad,
        optax=[("amsgrad", {"learning_rate": 0.01, "eps_root": 1e-8})],
    ),
    Rule(
        optim.AMSGrad(0.01, bias_correction="none"),
        amsgrad,
        optax=[("amsgrad", {"learning_rate": 0.01, "bias_correction_mu": False, "bias_correction_nu": False})],
    ),
    Rule(
        optim.AMSGrad(0.01, epsilon=1e-7, bias_correction="rate", weight_decay=0.3),
        amsgrad,
        keras=("AdamW", {**_KERAS, "amsgrad": True}),
    ),
    Rule(
        optim.AdaMax(0.01, **COUPLED),
        adamax,
        ("Adamax", {"lr": 0.01, **COUPLED}),
        [_L2, ("adamax", {"learning_rate": 0.01})],
    ),
    Rule(optim.AdaMax(0.01, **DECOUPLED), adamax, optax=[("adamaxw", _OPTAX)]),
    Rule(optim.AdaMax(0.01, epsilon=0.0, epsilon_outside=1e-7), adamax, keras=("Adamax", {"learning_rate": 0.01})),
    Rule(optim.AdaMax(0.01, epsilon=0.0, epsilon_outside=1e-7, **DECOUPLED), adamax, keras=("Adamax", _KERAS)),
    Rule(optim.NAdam(0.01, **COUPLED), nadam, ("NAdam", {"lr": 0.01, **COUPLED})),
    Rule(
        optim.NAdam(0.01, **DECOUPLED),
        nadam,
        ("NAdam", {"lr": 0.01, "decoupled_weight_decay": True, **COUPLED}),
    ),
    Rule(
        optim.NAdam(0.01, momentum_decay=None, epsilon_root=1e-8, **DECOUPLED),
        nadam,
        optax=[("nadamw", {**_OPTAX, "eps_root": 1e-8})],
    ),
    Rule(optim.NAdam(0.01, epsilon=1e-7, momentum_decay=1.0, **DECOUPLED), nadam, keras=("Nadam", _KERAS)),
    Rule(optim.RAdam(0.01, **COUPLED), radam, ("RAdam", {"lr": 0.01, **COUPLED})),
    Rule(
        optim.RAdam(0.01, **DECOUPLED),
        radam,
        ("RAdam", {"lr": 0.01, "decoupled_weight_decay": True, **COUPLED}),
    ),
    Rule(
        optim.RAdam(0.01, bias_correction="moments"),
        radam,
        optax=[("radam", {"learning_rate": 0.01})],
    ),
    Rule(
        optim.RAdam(0.01, bias_correction="moments", epsilon_root=1e-8, threshold=8.0, **COUPLED),
        radam,
        optax=[_L2, ("radam", {"learning_rate": 0.01, "eps_root": 1e-8, "threshold": 8.0})],
    ),
    Rule(
        optim.AdaBelief(0.01, epsilon=1e-8, epsilon_root=1e-12, **COUPLED),
        adabelief,
        optax=[_L2, ("adabelief", {"learning_rate": 0.01, "eps": 1e-8, "eps_root": 1e-12})],
    ),
    Rule(optim.Yogi(0.01, initial=1e-6), yogi, optax=[("yogi", {"learning_rate": 0.01})]),
    Rule(
        optim.Yogi(0.01, epsilon_root=1e-8, **COUPLED),
        yogi,
        optax=[
            _L2,
            ("scale_by_yogi", {"eps_root": 1e-8, "initial_accumulator_value": 0.0}),
            ("scale", {"step_size": -0.01}),
        ],
    ),
    Rule(optim.Yogi(0.01, bias_correction="none"), yogi),
    Rule(optim.ADOPT(0.01), adopt, optax=[("contrib.adopt", {"learning_rate": 0.01})]),
    Rule(
        optim.ADOPT(0.01, weight_decay=0.3, weight_decay_mode="coupled"),
        adopt,
        optax=[_L2, ("contrib.adopt", {"learning_rate": 0.01})],
    ),
    Rule(
        optim.AdEMAMix(0.01, beta3=0.99, alpha=3.0, epsilon_root=1e-8, weight_decay=0.3),
        ademamix,
        optax=[("contrib.ademamix", {**_OPTAX, "b3": 0.99, "alpha": 3.0, "eps_root": 1e-8})],
    ),
    # optax 0.2.8 weighs the differences with 1 - beta2 where paper and authors' code have beta2 (its pull request
    # 1715): at 0.5 they are the same.
    Rule(
        optim.Adan(0.01, beta2=0.5, epsilon_root=1e-8),
        adan,
        optax=[("adan", {"learning_rate": 0.01, "b2": 0.5})],
    ),
]


def _presets():
    """Each class as each library has it, against the library's own defaults; then with weights that decay."""
    rate = {cls: {"learning_rate": cls().learning_rate} for cls in optim.REGISTRY.values()}  # optax has no default
    table = [
        (optim.SGD, sgd, {}, "SGD", "sgd", "SGD"),
        (optim.HeavyBall, heavy_ball, {"momentum": 0.9}, "SGD", "sgd", "SGD"),
        (optim.Nesterov, nesterov, {"momentum": 0.9, "nesterov": True}, "SGD", "sgd", "SGD"),
        (optim.SignSGD, sign_sgd, {}, None, "sign_sgd", None),
        (optim.Signum, signum, {}, None, "signum", None),
        (optim.Lion, lion, {}, None, "lion", "Lion"),
        (optim.Rprop, rprop, {}, "Rprop", None, None),
        (optim.ASGD, asgd, {}, "ASGD", None, None),
        (optim.AdaGrad, adagrad, {}, "Adagrad", "adagrad", "Adagrad"),
        (optim.RMSprop, rmsprop, {}, "RMSprop", "rmsprop", "RMSprop"),
        (optim.AdaDelta, adadelta, {}, "Adadelta", "adadelta", "Adadelta"),
        (optim.Adam, adam, {}, "Adam", "adam", "Adam"),
        (optim.AdamW, adamw, {}, "AdamW", "adamw", "AdamW"),
        (optim.AMSGrad, amsgrad, {}, None, "amsgrad", None),
        (optim.AMSGrad, amsgrad, {"amsgrad": True}, "Adam", None, "Adam"),
        (optim.AdaMax, adamax, {}, "Adamax", "adamax", "Adamax"),
        (optim.NAdam, nadam, {}, "NAdam", "nadam", "Nadam"),
        (optim.RAdam, radam, {}, "RAdam", "radam", None),
        (optim.AdaBelief, adabelief, {}, None, "adabelief", None),
        (optim.Yogi, yogi, {}, None, "yogi", None),
        (optim.ADOPT, adopt, {}, None, "contrib.adopt", None),
        (optim.AdEMAMix, ademamix, {}, None, "contrib.ademamix", None),
        (optim.LARS, lars, {}, None, "lars", None),
        (optim.LAMB, lamb, {}, None, "lamb", None),
        (optim.NovoGrad, novograd, {}, None, "novograd", None),
        (optim.Prodigy, prodigy, {}, None, "contrib.prodigy", None),
        (optim.ScheduleFreeSGD, schedule_free, {}, None, "contrib.schedule_free_sgd", None),
        (optim.ScheduleFreeAdamW, schedule_free_adamw, {}, None, "contrib.schedule_free_adamw", None),
    ]
    for cls, formula, arguments, torch, optax, keras in table:
        # PyTorch rounds 1 - learning_rate weight_decay to float32, optax's Lion adds the decay to a sign: each is up to
        # 1.5e-6 from the formula after twenty steps, where popgrad is 3e-7 from it.
        rounds = {"float32": 2e-6} if cls in (optim.Lion, optim.AdamW) else {}
        yield from _scheduled(cls, formula, arguments, torch, optax, keras, rounds)
        for decay in ({}, {"weight_decay": 0.3}):
            if torch and not (decay and torch == "Rprop"):
                yield Rule(cls(matches="torch", **decay), formula, torch=(torch, arguments | decay), **rounds)
            if optax and (not decay or optax in ("lion", "adadelta", "adamw", "lamb", "novograd", "contrib.ademamix")):
                reference = [(optax, rate[cls] | arguments | decay)]
                yield Rule(cls(matches="optax", **decay), formula, optax=reference, **rounds)
            if keras:
                yield Rule(cls(matches="keras", **decay), formula, keras=(keras, arguments | decay))
    # Where the learning rate stands shows only while it changes.
    for cls, formula, name, arguments in (
        (optim.HeavyBall, heavy_ball, "SGD", {"momentum": 0.8}),
        (optim.Nesterov, nesterov, "SGD", {"momentum": 0.8, "nesterov": True}),
        (optim.RMSprop, rmsprop, "RMSprop", {"momentum": 0.8}),
    ):
        optax = [(name.lower(), {"learning_rate": falling} | arguments)]
        yield Rule(cls(falling, momentum=0.8, matches="torch"), formula, torch=(name, arguments))
        yield Rule(cls(falling, momentum=0.8, matches="optax"), formula, optax=optax)
        yield Rule(cls(falling, momentum=0.8, matches="keras"), formula, keras=(name, arguments))


def _scheduled(cls, formula, arguments, torch, optax, keras, rounds):
    """The same with a schedule, which every library calls with 0 at the first step. Rprop's rate is a first length."""
    if cls is optim.Rprop:
        return
    if torch:
        yield Rule(cls(cooling, matches="torch"), formula, torch=(torch, arguments), **rounds)
    if optax:
        reference = [(optax, arguments | {"learning_rate": cooling})]
        yield Rule(cls(cooling, matches="optax"), formula, optax=reference, **rounds)
    if keras:
        yield Rule(cls(cooling, matches="keras"), formula, keras=(keras, arguments))


PRESETS = list(_presets())
