"""Data: tables read by name, from a file or from OpenML, and split into training, validation and test rows.

`load` and `from_arrays` return a `Dataset`, whose features are neither encoded nor scaled. `split` fits the encoding
and the scaling to the training rows alone, so that no information from test rows reaches the training.
"""

from popgrad.data._conform import Prepared, prepared
from popgrad.data._dataset import Dataset, Split
from popgrad.data._files import ArrayFiles, FileSplit, map_files, pair_of, split_files
from popgrad.data._load import NAMES, from_arrays, load, load_like
from popgrad.data._preprocessing import Column, Preprocessing
from popgrad.data._split import split

__all__ = ["NAMES", "Column", "Dataset", "Prepared", "Preprocessing", "Split", "from_arrays", "load", "load_like"]
__all__ += ["ArrayFiles", "FileSplit", "map_files", "pair_of", "prepared", "split", "split_files"]
