"""Training: `Trainer`, an iterator over records, and `fit`, which runs a `Trainer` to its end."""

from popgrad.train.fit import fit
from popgrad.train.records import History
from popgrad.train.streaming import BatchStream
from popgrad.train.trainer import Trainer

__all__ = ["BatchStream", "History", "Trainer", "fit"]
