"""Files that are whole or absent, and that a group can share."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
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


def replace_folder(
    path: str | Path, write: Callable[[Path], object], last: Sequence[str] = (), private: Sequence[str] = ()
) -> Path:
    """Write a folder beside `path`, flush it to the disk, and rename it: readers see all of its files or none.

    Where `path` holds other files already, those of the new folder are moved in one by one. Files named in `last` go
    first and come at the end, in this order: without them, nobody takes the folder for whole.

    Args:
        path: of the folder; missing parents are made.
        write: writes all files into the folder that it is given.
        last: names of files that readers look for first.
        private: names of files that no one but the owner may read, as `write` left them.
    """
    path = Path(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    beside.mkdir()
    try:
        write(beside)
        for file in sorted(beside.rglob("*")):
            if file.name not in private:
                share(file)
            if file.is_file():
                _flush(file, os.O_RDWR)
        if path.is_dir():
            shutil.copymode(path, beside)
        else:
            share(beside)
        try:
            os.replace(beside, path)  # onto no folder, or an empty one
        except OSError:
            if not path.is_dir():
                raise
            for name in reversed(last):
                (path / name).unlink(missing_ok=True)
            places = {name: i for i, name in enumerate(last)}
            for entry in sorted(beside.iterdir(), key=lambda entry: (places.get(entry.name, -1), entry.name)):
                os.replace(entry, path / entry.name)
        for folder in (path, path.parent):
            with suppress(OSError):
                _flush(folder, os.O_RDONLY)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path


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
