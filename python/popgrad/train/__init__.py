"""Training: `Trainer`, an iterator over records, and `fit`, which runs a `Trainer` to its end."""

from popgrad.train.fit import fit
from popgrad.train.range_test import RangeTest, lr_range_test
from popgrad.train.records import History
from popgrad.train.trainer import Trainer

__all__ = ["History", "RangeTest", "Trainer", "fit", "lr_range_test"]
