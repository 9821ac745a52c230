"""Named data sets, the user's own graphs, and the check that every graph must pass."""

from gunlearn.datasets.catalogue import DATASETS, Dataset, available, load
from gunlearn.datasets.files import from_files
from gunlearn.datasets.frames import from_pandas
from gunlearn.datasets.networkx_graphs import from_networkx
from gunlearn.datasets.validate import validate

__all__ = ["DATASETS", "Dataset", "available", "from_files", "from_networkx", "from_pandas", "load", "validate"]
