# Written by docs/methods.py.
from typing import Any

from popgrad.torch._base import Number, Optimizer, Pair, Triple
from popgrad.torch._special import Averaging, Observing

__all__ = [
    "ADOPT",
    "LAMB",
    "LARS",
    "AdEMAMix",
    "AdaBelief",
    "Adan",
    "DoG",
    "Lion",
    "NovoGrad",
    "Prodigy",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SignSGD",
    "Signum",
    "SophiaG",
    "Yogi",
]

class ADOPT(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.001,
        betas: Pair = (0.9, 0.9999),
        eps: float = 1e-06,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...

class AdEMAMix(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.001,
        betas: Triple = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        eps: float = 1e-08,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...

class AdaBelief(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.001,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...

class Adan(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.001,
        betas: Triple = (0.98, 0.92, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...

class DoG(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 1.0,
        reps_rel: float = 1e-06,
        eps: float = 1e-08,
        weight_decay: float = 0,
        averaging: float = 8.0,
        *,
        maximize: bool = False,
    ) -> None: ...

class LAMB(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.001,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0,
        adapt_vectors: bool = True,
        *,
        maximize: bool = False,
    ) -> None: ...

class LARS(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 1.0,
        momentum: float = 0.9,
        trust: float = 0.001,
        weight_decay: float = 0,
        eps: float = 0.0,
        adapt_vectors: bool = True,
        *,
        maximize: bool = False,
    ) -> None: ...

class Lion(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.0001,
        betas: Pair = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...

class NovoGrad(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.01,
        betas: Pair = (0.95, 0.98),
        eps: float = 1e-08,
        weight_decay: float = 0,
        averaging: bool = False,
        *,
        maximize: bool = False,
    ) -> None: ...

class Prodigy(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 1.0,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        d0: float = 1e-06,
        d_coef: float = 1.0,
        growth_rate: float | None = None,
        use_bias_correction: bool = False,
        *,
        maximize: bool = False,
    ) -> None: ...

class ScheduleFreeAdamW(Averaging):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.0025,
        betas: Pair = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        r: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None: ...

class ScheduleFreeSGD(Averaging):
    def __init__(
        self,
        params: Any,
        lr: Number = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        r: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None: ...

class SignSGD(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.001,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...

class Signum(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.001,
        momentum: float = 0.9,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...

class SophiaG(Observing):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.0003,
        betas: Pair = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...

class Yogi(Optimizer):
    def __init__(
        self,
        params: Any,
        lr: Number = 0.01,
        betas: Pair = (0.9, 0.999),
        eps: float = 0.001,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None: ...
