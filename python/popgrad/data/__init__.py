"""Data: tables read by name, from a file or from OpenML, and split into training, validation and test rows.

`load` and `from_arrays` give a `Dataset`, whose features are as they came. `split` encodes and standardizes
them by what the training rows show and nothing else, so that no number of a test row reaches the training.
"""

from popgrad.data._dataset import Dataset, Split
from popgrad.data._load import NAMES, from_arrays, load
from popgrad.data._split import split

__all__ = ["NAMES", "Dataset", "Split", "from_arrays", "load", "split"]
