"""Files are on the disk before they take the place of others."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.core.atomic import replace_file, write_file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What `os` is asked to flush (with the content at that time) and to rename, in order."""
    seen: list[tuple[str, Any]] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append(("fsync", (path, path.read_bytes() if path.is_file() else None)))
        fsync(descriptor)

    def rename(source: Any, target: Any, **more: Any) -> None:
        seen.append(("replace", (Path(source), Path(target))))
        replace(source, target, **more)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    return seen


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are read from /proc")


@needs_proc
def test_the_whole_content_is_flushed_before_the_rename_and_the_folder_after(calls: list, tmp_path: Path) -> None:
    path, content = tmp_path / "sub" / "file", b"x" * 100_000
    write_file(path, content)
    (_, (beside, flushed)), (_, renamed), (_, (folder, _)) = calls
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    assert flushed == content == path.read_bytes()
    assert renamed == (beside, path)
    assert beside != path
    assert folder == path.parent


@needs_proc
def test_results_and_checkpoints_are_flushed(calls: list, tmp_path: Path) -> None:
    data = gu.node_split(gu.load("karate"), seed=0)
    model = gu.nn.backbone("gcn", 34, 4, 4)
    result = gu.unlearn(
        model, data, gu.ForgetNodes([1]), "finetune", "node_classification", epochs=51, checkpoint_dir=tmp_path / "c"
    )
    result.save(tmp_path / "r")
    written = [(k, target) for k, (name, (_, target)) in enumerate(calls) if name == "replace"]
    assert {"checkpoint.pt", "result.json"} <= {target.name for _, target in written}
    for k, target in written:
        name, (flushed, content) = calls[k - 1]
        assert (name, flushed) == ("fsync", calls[k][1][0]), target
        assert content, target


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(tmp_path / "file", b"old")

    def broken(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, lambda beside: torch.save(nn.Linear(1, 1).state_dict(), str(beside)))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
