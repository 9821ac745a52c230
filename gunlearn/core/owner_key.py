"""The owner's key: digests and sealed ids that its holder alone can check or open.

A plain hash of a request is no secret: who knows the graph hashes every edge and compares. So all digests that are
written down are made under a key which stays with the owner, in `GUNLEARN_KEY_FILE`, or else in `gunlearn/key` of the
user's folder for settings. It is drawn on first use. The same key gives the same digest in every session.
"""

import hashlib
import hmac
import os
import secrets
import sys
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from gunlearn.errors import InvalidInputError

#: Environment variable that names the key's file, to share a key between users, machines or containers.
VARIABLE = "GUNLEARN_KEY_FILE"
_SHORTEST = 16  # bytes


def key_file() -> Path:
    """Return the path of the key, which need not exist; RuntimeError where the user has no home folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    settings = os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME", "")
    folder = Path(settings) if os.path.isabs(settings) else Path.home() / ".config"
    return folder / "gunlearn" / "key"


def owner_key() -> bytes:
    """Return the key; draw it on first use, readable for its owner alone.

    Where it can be neither read nor written, the key is one of this process, with a warning.

    Raises:
        InvalidInputError: the file holds less than 16 bytes, which could be guessed.
    """
    try:
        path = key_file()
        if not path.exists():
            _draw(path)
        key = path.read_bytes().strip()
    except (OSError, RuntimeError) as error:
        return _of_this_process(str(error))
    if len(key) < _SHORTEST:
        raise InvalidInputError(
            f"Expected a key of at least {_SHORTEST} bytes in {path} (got {len(key)}); "
            "delete the file to have one drawn"
        )
    return key


def check_key_outside(folder: str | Path) -> None:
    """Refuse a folder for outputs that holds the key: who gets the outputs would get it, too."""
    with suppress(RuntimeError):
        path = key_file()
        if path.parent.resolve() == Path(folder).resolve():
            raise InvalidInputError(
                f"Expected the owner's key outside of the outputs (got {path}); move it, and set {VARIABLE}"
            )


def keyed_hash(content: bytes, purpose: str, length: int = 16) -> str:
    """Return `length` hex digits of the HMAC-SHA-256 of `content`; each purpose has digests of its own."""
    return _mac(purpose, content).hex()[:length]


def seal(content: bytes, purpose: str) -> bytes:
    """Encrypt `content` under the key: 16 bytes more, the same for the same content. See `unseal`."""
    mark = _mac(f"{purpose}: mark", content)[:16]
    return mark + _masked(content, mark, purpose)


def unseal(sealed: bytes, purpose: str) -> bytes | None:
    """Return what `seal` was given; `None` if it was sealed under another key, or has changed since."""
    mark, content = sealed[:16], _masked(sealed[16:], sealed[:16], purpose)
    return content if hmac.compare_digest(mark, _mac(f"{purpose}: mark", content)[:16]) else None


def _mac(purpose: str, content: bytes) -> bytes:
    return hmac.digest(owner_key(), purpose.encode() + b"\0" + content, "sha256")


def _masked(content: bytes, mark: bytes, purpose: str) -> bytes:
    stream = hashlib.shake_256(_mac(f"{purpose}: stream", mark)).digest(len(content))
    size = len(content)
    return (int.from_bytes(content, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def _draw(path: Path) -> None:
    """Write a new key in one stroke; of processes that start at once, the first one's counts."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    drawn = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(drawn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(drawn, path)  # unlike a renaming, it replaces nothing
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not path.exists():
                drawn.rename(path)
    finally:
        drawn.unlink(missing_ok=True)


@cache
def _of_this_process(error: str) -> bytes:
    warnings.warn(
        f"the key for digests can be neither read nor written ({error}), so this process takes one of its own: later "
        f"sessions will neither know its digests, nor resume its runs, nor open its sealed node ids; set {VARIABLE} to "
        "a file that you can write",
        UserWarning,
        stacklevel=3,
    )
    return secrets.token_bytes(32)
