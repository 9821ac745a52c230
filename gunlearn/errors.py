"""The errors of the package: every error that gunlearn raises on purpose is a `GunlearnError`.

Messages have one form: ``Expected <what> (got <what else>)``, with the remedy where there is one.
"""

from __future__ import annotations


class GunlearnError(Exception):
    """Root of all errors raised on purpose by this package."""


class InvalidInputError(GunlearnError, ValueError):
    """An argument has the wrong value, shape or content."""


class InvalidTypeError(GunlearnError, TypeError):
    """An argument has the wrong type."""


class InvalidRequestError(InvalidInputError):
    """A forget request does not fit the data it is resolved against."""


class EmptyForgetSetError(InvalidRequestError):
    """A forget request names nothing."""


class UnsupportedModelError(GunlearnError, ValueError):
    """The model cannot be used in this way (no message passing layer, wrong output, ...)."""


class UnsupportedMethodError(GunlearnError, ValueError):
    """A method does not support this task, request or model; the message says why."""


class DivergenceError(GunlearnError, ArithmeticError):
    """A loss or a parameter became NaN or infinite; no such model is ever returned."""


class DatasetNotFoundError(GunlearnError, FileNotFoundError):
    """A named data set is neither embedded, nor on disk, nor can it be downloaded."""


class CheckpointError(GunlearnError, ValueError):
    """A checkpoint or saved result does not fit the run it is loaded into."""


class MissingExtraError(GunlearnError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""
