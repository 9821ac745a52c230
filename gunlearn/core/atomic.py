"""Files that are whole or absent, and that a group can share."""

import hashlib
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_GROUP_WRITES = 0o020


def replace_file(path: str | Path, write: Callable[[Path], object], private: bool = False) -> Path:
    """Write a file beside `path`, flush it to the disk, and rename it: readers see the old file or the new one.

    Args:
        path: of the file; missing folders are made.
        write: writes the whole content to the path that it is given.
        private: let no one but the owner read it; else the umask decides, and a group that may write to the folder may
            write to the file.
    """
    path = Path(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
        write(beside)
        if not private:
            share(beside)
        _flush(beside, os.O_RDWR)
        os.replace(beside, path)
        with suppress(OSError):  # folders cannot be opened on Windows, nor flushed on some file systems
            _flush(path.parent, os.O_RDONLY)
    finally:
        beside.unlink(missing_ok=True)
    return path


def write_file(path: str | Path, content: bytes, private: bool = False) -> Path:
    """Write a whole file or nothing, see `replace_file`."""
    return replace_file(path, lambda beside: beside.write_bytes(content), private)


def make_folder(path: str | Path) -> Path:
    """Make a folder and its missing parents, which a group may write to where it may write to the first one there."""
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        share(folder)
    return path


def share(path: Path) -> None:
    """Give the group the right to write to `path` where it has it in the folder around."""
    with suppress(OSError):  # of another user
        mode = path.stat().st_mode & 0o7777
        if path.parent.stat().st_mode & _GROUP_WRITES and not mode & _GROUP_WRITES:
            path.chmod(mode | (0o070 if path.is_dir() else 0o060))


def checksum(content: bytes) -> str:
    """Return the SHA-256 of bytes, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
