"""Files that are whole or absent, and that a group can share."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from gunlearn.errors import InvalidInputError, OutputError

_GROUP_WRITES = 0o020
#: Words of libraries that raise errors of their own where the system cannot write.
OF_DISKS = (
    "No space left", "Read-only file system", "Permission denied", "File too large", "inline_container", "StreamWriter",
)  # fmt: skip


@contextmanager
def written(path: str | Path) -> Iterator[None]:
    """Make the folder around `path` for what is written in this context; leave no new folder where that fails.

    Raises:
        OutputError: with the path and the system's reason.
    """
    missing = [folder for folder in Path(path).absolute().parents if not os.path.lexists(folder)]
    try:
        make_folder(Path(path).parent)
        yield
    except Exception as error:
        for folder in missing:
            with suppress(OSError):  # somebody else's files are there
                folder.rmdir()
        if isinstance(error, OutputError) or not (
            isinstance(error, OSError) or any(words in str(error) for words in OF_DISKS)
        ):
            raise
        raise _in_words(path, error) from error


def _in_words(path: str | Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    if not isinstance(error, OSError):
        there = next(folder for folder in Path(path).absolute().parents if folder.exists())
        with suppress(OSError):
            reason += f"; {shutil.disk_usage(there).free} bytes are free"
    blocked = getattr(error, "filename", None)
    at = f" at {blocked}" if blocked and Path(blocked).is_file() and Path(blocked) in Path(path).parents else ""
    return OutputError(f"Expected a place that can be written (got {path}: {reason}{at})")


def replace_file(path: str | Path, write: Callable[[Path], object], private: bool = False) -> Path:
    """Write a file beside `path`, flush it to the disk, and rename it: readers see the old file or the new one.

    Args:
        path: of the file; missing folders are made.
        write: writes the whole content to the path that it is given.
        private: let no one but the owner read it; else the umask decides, and a group that may write to the folder may
            write to the file.
    """
    return replace_files({Path(path): write}, private)[0]


def replace_files(writes: Mapping[Path, Callable[[Path], object]], private: bool = False) -> list[Path]:
    """Write several files as `replace_file` does: all are on the disk before the first of them is renamed."""
    beside = {path: path.with_name(f".{path.name}.{uuid.uuid4().hex}.part") for path in writes}
    with ExitStack() as stack:
        for path, write in writes.items():
            stack.enter_context(written(path))
            stack.callback(beside[path].unlink, missing_ok=True)
            os.close(os.open(beside[path], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
            write(beside[path])
            if not private:
                share(beside[path])
            _flush(beside[path], os.O_RDWR)
        for path in writes:
            os.replace(beside[path], path)
            with suppress(OSError):  # folders cannot be opened on Windows, nor flushed on some file systems
                _flush(path.parent, os.O_RDONLY)
    return list(writes)


def write_file(path: str | Path, content: bytes, private: bool = False) -> Path:
    """Write a whole file or nothing, see `replace_file`."""
    return write_files({Path(path): content}, private)[0]


def write_files(contents: Mapping[Path, bytes], private: bool = False) -> list[Path]:
    """Write several whole files or none, see `replace_files`."""
    return replace_files({path: partial(_write, content) for path, content in contents.items()}, private)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


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
    with written(path):
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


def check_writable(folder: str | Path) -> None:
    """Refuse a folder that cannot be written, or made: the outputs of a long run would be lost. Leaves nothing."""
    folder = Path(folder).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".write"):
            pass
    except OSError as error:
        raise InvalidInputError(f"Expected a folder that can be written (got {folder}: {error.strerror})") from error


def make_folder(path: str | Path) -> Path:
    """Make a folder and its missing parents, which a group may write to where it may write to the first one there."""
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _in_words(path, error) from error
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
