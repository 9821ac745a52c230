"""Arrays in idx files, the format of MNIST and its kin, read without pickle."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError

#: Types of entries by the third byte of a file.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST = 1 << 34  # bytes; a header that says more is none


def read_idx(path: str | Path) -> Tensor:
    """Return the array of an idx file, plain or gzipped (told by its first bytes), in its own type and shape.

    The file holds two zero bytes, a byte for the type, one for the number of dimensions, a big-endian size of each, and
    the entries.

    Raises:
        DatasetNotFoundError: no such file.
        InvalidInputError: no idx file, or one that holds fewer or more entries than it says.
    """
    path = Path(path)
    content = _bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or not 1 <= content[3] <= 8:
        raise InvalidInputError(
            f"Expected an idx file (two zero bytes, a known type, a number of dimensions) in {path} (got "
            f"{content[:4].hex(' ') or 'nothing'}{': a pickle?' if content[:1] == bytes([0x80]) else ''})"
        )
    kind, start = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    sizes = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start else []
    wanted = math.prod(sizes) * kind.itemsize if sizes else _MOST
    if len(content) - start != wanted:
        said = f"{wanted} bytes of entries, {' x '.join(map(str, sizes))}" if sizes else "its sizes"
        raise InvalidInputError(
            f"Expected {said} in {path} (got {max(len(content) - start, 0)}; is it cut short?); get the file again"
        )
    array = np.frombuffer(content, kind, offset=start).reshape(sizes)
    return torch.from_numpy(array.astype(kind.newbyteorder("=")))


def _bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked where it is gzipped."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInputError(
            f"Expected a whole gzip file {path} (got {type(error).__name__}: {error}; is it cut short?); get it again"
        ) from error
    except OSError as error:
        raise InvalidInputError(f"Expected a readable file {path} (got {error})") from error
