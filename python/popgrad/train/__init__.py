"""Training: `Trainer`, an iterator over records, and `fit`, which runs a `Trainer` to its end."""

from popgrad.train.callbacks import Callback, EarlyStopping, JSONLog, TrainingRun
from popgrad.train.checkpoints import Checkpoint
from popgrad.train.fit import fit
from popgrad.train.records import History
from popgrad.train.streaming import BatchStream
from popgrad.train.trainer import Trainer

__all__ = [
    "BatchStream",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "JSONLog",
    "Trainer",
    "TrainingRun",
    "fit",
]
