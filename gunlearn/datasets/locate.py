"""Folders of raw files: the user's root, which is never written to, and the cache of downloads."""

import os
import sys
import tempfile
from os import PathLike
from pathlib import Path

from gunlearn.errors import DatasetNotFoundError

ROOT_VARIABLE = "GUNLEARN_DATA"
CACHE_VARIABLE = "GUNLEARN_CACHE"


def data_root(root: str | PathLike[str] | None = None) -> tuple[Path, str]:
    """Return the folder that holds raw files (`root`, else the environment's, else `./data`), and who named it."""
    if root is not None:
        return Path(root).expanduser().absolute(), "root"
    if os.environ.get(ROOT_VARIABLE):
        return Path(os.environ[ROOT_VARIABLE]).expanduser().absolute(), ROOT_VARIABLE
    return Path("data").absolute(), "the default"


def cache_folder() -> Path:
    """Return the folder for downloads, `$GUNLEARN_CACHE` or the platform's; it may not exist."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser().absolute()
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "gunlearn"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gunlearn"


def writable_cache() -> Path | None:
    """Create and return the folder for downloads; `None` if it is not writable."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permission bits are not enough on network and read-only mounts
            return folder
    except OSError:
        return None


def missing_files(raw: Path, files: tuple[str, ...]) -> list[str]:
    """Return those of `files` that the folder `raw` lacks."""
    return [name for name in files if not (raw / name).is_file()]


def _hint(base: Path, folder: tuple[str, ...], files: tuple[str, ...]) -> str:
    """Return a hint at the right root, if the files lie in or just above `base`."""
    for depth in range(1, len(folder) + 1):
        found = base.joinpath(*folder[depth:])
        if not missing_files(found, files):
            if base.parts[-depth:] == folder[:depth]:
                return f" The files are in {found}: set the root to {base.parents[depth - 1]}."
            return f" The files are in {found}: move them to the folder named above."
    return ""


def not_found(
    name: str, folder: tuple[str, ...], files: tuple[str, ...], root: str | PathLike[str] | None, remedy: str
) -> DatasetNotFoundError:
    """Return the error that names the missing raw files of a data set, their folder, and the remedy."""
    base, named_by = data_root(root)
    raw = base.joinpath(*folder)
    state = "" if base.is_dir() else f" {base} is no folder."
    lacking = missing_files(raw, files)
    shown = f"{', '.join(lacking)} in {raw}" if len(lacking) > 1 else str(raw / lacking[0])
    return DatasetNotFoundError(
        f"Expected the raw files of {name!r}: {shown} (got no such file; root {base} from {named_by})."
        f"{state}{_hint(base, folder, files)} "
        f"Name the folder that holds {folder[0]}/ with root=, --root or {ROOT_VARIABLE}. {remedy}"
    )


def find_raw(folder: tuple[str, ...], files: tuple[str, ...], root: str | PathLike[str] | None) -> Path | None:
    """Return the folder with all of `files`, below the root or among earlier downloads; `None` if there is none."""
    places = (base.joinpath(*folder) for base in (data_root(root)[0], cache_folder()))
    return next((raw for raw in places if not missing_files(raw, files)), None)
