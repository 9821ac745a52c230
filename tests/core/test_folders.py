"""Folders that are whole or absent."""

import os

import pytest

from gunlearn.core.atomic import replace_folder


def _write(folder):
    (folder / "weights").write_text("new")
    (folder / "config.json").write_text("new")


def _fail(folder):
    _write(folder)
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "other files"])
def test_a_folder_is_whole_or_as_it_was(tmp_path, there):
    at = tmp_path / "out"
    if there != "nothing":
        at.mkdir(mode=0o700)
    if there == "other files":
        (at / "notes.txt").write_text("stay")
    before = sorted(path.name for path in at.rglob("*"))
    with pytest.raises(OSError, match="No space left"):
        replace_folder(at, _fail)
    assert sorted(path.name for path in at.rglob("*")) == before
    assert at.exists() == (there != "nothing")
    replace_folder(at, _write)
    assert sorted(path.name for path in at.rglob("*")) == sorted([*before, "config.json", "weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert there == "nothing" or at.stat().st_mode & 0o777 == 0o700


def test_a_folder_with_other_files_gets_the_last_ones_last(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("stay")
    move, moved = os.replace, []

    def interrupted(source, target):
        if os.path.isfile(source) and moved:
            raise OSError(28, "No space left on device")
        move(source, target)
        moved.append(source)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(OSError, match="No space left"):
        replace_folder(tmp_path / "out", _write, last=("config.json",))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["notes.txt", "weights"]
