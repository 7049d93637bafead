"""Training: an iterator over records, and `fit`, which is a loop over it."""

from popgrad.train.fit import fit
from popgrad.train.records import History
from popgrad.train.trainer import Trainer

__all__ = ["History", "Trainer", "fit"]
