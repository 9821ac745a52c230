"""The `gunlearn` command, run in this process."""

import subprocess
import sys

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


def help_alone(*commands: str, heavy: tuple[str, ...] = ("torch", "transformers", "peft")) -> tuple[str, list[str]]:
    """What `--help` of the commands prints in a new process, and which of the heavy packages it loaded."""
    code = (
        "import sys\nfrom gunlearn.cli import main\n"
        f"for name in {commands!r}:\n"
        "    try:\n        main([name, '--help'])\n    except SystemExit:\n        pass\n"
        f"print(*sorted({{*{heavy!r}}} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *printed, loaded = out.split("\n")[:-1]
    return "\n".join(printed), loaded.split()
