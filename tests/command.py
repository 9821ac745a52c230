"""The `gunlearn` command, run in this process."""

import pytest

from gunlearn.cli import main


def call(*argv: str) -> int | str:
    """The exit code."""
    try:
        main(list(argv))
    except SystemExit as stop:
        return stop.code or 0
    return 0


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a wrong call says: one line, nothing beside it, exit code 2."""
    assert call(*argv) == 2, argv
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: Expected")
    return line
