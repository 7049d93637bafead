"""Training: `Trainer`, an iterator over records, and `fit`, which runs a `Trainer` to its end."""

from popgrad.train.callbacks import Callback, EarlyStopping, JSONLog, TrainingRun
from popgrad.train.checkpoints import Checkpoint
from popgrad.train.fit import fit
from popgrad.train.many import Fitted, FittedModels, fit_many
from popgrad.train.range_test import RangeTest, lr_range_test
from popgrad.train.records import History
from popgrad.train.streaming import BatchStream
from popgrad.train.trainer import Trainer

__all__ = [
    "BatchStream",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "Fitted",
    "FittedModels",
    "History",
    "JSONLog",
    "RangeTest",
    "Trainer",
    "TrainingRun",
    "fit",
    "fit_many",
    "lr_range_test",
]
