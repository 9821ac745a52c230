"""The owner's key: drawn once, readable for its owner alone, and what digests and seals are worth without it."""

import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import gunlearn as gu
from gunlearn.core.owner_key import key_file, keyed_hash, owner_key, seal, unseal
from gunlearn.errors import InvalidInputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GUNLEARN_KEY_FILE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_the_key_is_drawn_on_first_use_for_its_owner_alone(home: Path) -> None:
    path = home / "config" / "gunlearn" / "key"
    assert key_file() == path
    assert not path.exists()
    before = os.umask(0)
    try:
        first = owner_key()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(first) >= 32
    assert owner_key() == first
    assert [p.name for p in path.parent.iterdir()] == ["key"]
    path.unlink()
    assert owner_key() != first


def test_where_the_key_lies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # must be ignored, says the specification of XDG
    assert key_file() == home / ".config" / "gunlearn" / "key"
    monkeypatch.setenv("GUNLEARN_KEY_FILE", "~/mine")
    assert key_file() == home / "mine"


def test_processes_that_start_at_once_have_one_key(home: Path) -> None:
    code = "from gunlearn.core.owner_key import keyed_hash; print(keyed_hash(b'x', 'p'))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {process.communicate()[0] for process in started}
    assert said == {keyed_hash(b"x", "p") + "\n"}


def test_a_short_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path / "key"))
    for content in ("", "secret\n"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(InvalidInputError, match="at least 16 bytes"):
            gu.ForgetEdges([(0, 1)]).resolve(gu.load("karate"))


def test_without_a_place_for_the_key_the_process_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path / "file" / "key"))
    with pytest.warns(UserWarning, match="GUNLEARN_KEY_FILE") as seen:
        one = keyed_hash(b"x", "p")
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keyed_hash(b"x", "p") == one  # said once, and the same key


def test_digests_and_seals_depend_on_key_purpose_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(200))
    found, sealed = set(), set()
    for owner in ("one", "two"):
        monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path / owner))
        found |= {keyed_hash(c, p) for c in (content, b"") for p in ("a", "b")}
        sealed |= {seal(c, p) for c in (content, content[:-1] + b"x") for p in ("a", "b")}
        assert keyed_hash(content, "a") == keyed_hash(content, "a")
        once = seal(content, "a")
        assert unseal(once, "a") == content
        assert unseal(once, "b") is None
        for i in (0, 15, 16, len(once) - 1):
            assert unseal(once[:i] + bytes([once[i] ^ 1]) + once[i + 1 :], "a") is None
    assert len(found) == len(sealed) == 8
    assert unseal(next(iter(sealed)), "c") is None
    assert not any(content[:8] in s for s in sealed)


def test_the_key_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = gu.load("karate")
    result = gu.unlearn(gu.GCN(data.num_features), data, gu.ForgetEdges(count=2), "utu")
    monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path / "out" / "key"))
    with pytest.raises(InvalidInputError, match="key outside"):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
