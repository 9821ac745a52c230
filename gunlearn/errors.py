"""Errors. Messages have the form ``Expected <what> (got <what else>)``, with the remedy where there is one."""

#: The end of errors about things that a request names twice, or that are gone.
SKIPS = "missing='ignore' skips them"
#: The end of errors about a model that is another than was saved.
ANYHOW = "load it nevertheless with strict=False"
#: What the command line says in place of Python's advice.
FOR_THE_COMMAND = {
    SKIPS: "take these out of the file of --forget-file",
    ANYHOW: "name the model as it was made: --model FILE.py:FUNCTION",
}


class GunlearnError(Exception):
    """Base of all errors that this package raises on purpose."""


class InvalidInputError(GunlearnError, ValueError):
    """An argument has the wrong value, shape or content."""


class InvalidTypeError(GunlearnError, TypeError):
    """An argument has the wrong type."""


class ChangedDataError(InvalidInputError):
    """A graph has changed since `gunlearn.prepare`; what was found out about it then does not hold any more."""


class InvalidRequestError(InvalidInputError):
    """A forget request has wrong arguments or does not fit the data."""


class EmptyForgetSetError(InvalidRequestError):
    """A forget request names nothing."""


class UnsupportedModelError(GunlearnError, ValueError):
    """The model cannot be used in this way (no message passing layer, wrong output, ...)."""


class UnsupportedMethodError(GunlearnError, ValueError):
    """A method does not support this task, request or model; the message says why."""


class DivergenceError(GunlearnError, ArithmeticError):
    """A loss or a parameter became NaN or infinite; no such model is returned."""


class DatasetNotFoundError(GunlearnError, FileNotFoundError):
    """A named data set is neither embedded nor on disk, and cannot be downloaded."""


class CheckpointError(GunlearnError, ValueError):
    """A checkpoint or saved result does not fit the run it is loaded into."""


class OutputError(GunlearnError, OSError):
    """A file or folder cannot be written: the disk is full, read-only, or something else is there."""


class MissingExtraError(GunlearnError, ImportError):
    """An optional package is not installed; the message names its extra."""


class PluginError(GunlearnError, ImportError):
    """What another package adds cannot be used; the message names the package and the remedy."""
