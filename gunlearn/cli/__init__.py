"""The `gunlearn` command. Heavy modules load when a command uses them, not for help."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import tyro

import gunlearn
from gunlearn.cli.connect_command import Connect
from gunlearn.cli.diffusion_command import Diffusion
from gunlearn.cli.grid_command import Run
from gunlearn.cli.influence import InfluenceCommand
from gunlearn.cli.listings import Datasets, Estimators, FiguresCommand, Losses, Methods, Report
from gunlearn.cli.llm import LLM, LLMMethods
from gunlearn.cli.llm_bench import LLMBench
from gunlearn.cli.llm_dp import LLMDP
from gunlearn.cli.llm_eval import LLMEval
from gunlearn.cli.llm_release import LLMRelease
from gunlearn.core.atomic import OF_DISKS
from gunlearn.core.lazy import lazy
from gunlearn.errors import FOR_THE_COMMAND, GunlearnError

COMMANDS: dict[str, Callable[..., Any]] = {
    "run": Run,
    "influence": InfluenceCommand,
    "connect": Connect,
    "methods": Methods,
    "figures": FiguresCommand,
    "estimators": Estimators,
    "datasets": Datasets,
    "losses": Losses,
    "llm": LLM,
    "llm-eval": LLMEval,
    "diffusion": Diffusion,
    "llm-bench": LLMBench,
    "llm-release": LLMRelease,
    "llm-dp": LLMDP,
    "llm-methods": LLMMethods,
    "report": Report,
}
_DESCRIPTION = (
    "Unlearning in graph neural networks, language models, image classifiers and diffusion models. "
    "'gunlearn --version' tells the version."
)
__getattr__, __dir__ = lazy(__name__, {})


_READER_GONE = 141  # 128 + SIGPIPE, as of other programs


def main(argv: Sequence[str] | None = None) -> None:
    """Run `gunlearn`.

    SystemExit has code 1 if a method failed everywhere, 2 after an error, 130 after Ctrl-C, and 141 where the program
    that reads the output ended first (`gunlearn run --help | head -1`).
    """
    try:
        try:
            _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # what is left in the buffer would fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_READER_GONE) from None


def _run(argv: Sequence[str] | None) -> None:
    if [*(sys.argv[1:] if argv is None else argv)] == ["--version"]:
        print(f"gunlearn {gunlearn.__version__}")
        return
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="gunlearn", description=_DESCRIPTION, args=argv)
    try:
        code = command()
    except BrokenPipeError:
        raise
    except Exception as error:
        if getattr(command, "debug", False):
            raise
        gunlearn.cli.console.say("error: " + " ".join(_words(error).split()), style="red")
        code = 2
    except KeyboardInterrupt:
        code = 130
    if code:
        raise SystemExit(code)


def _words(error: Exception) -> str:
    """Return an error in words; one that nobody foresaw with its type, and how to see where it came from."""
    if isinstance(error, GunlearnError):
        return _for_the_command(str(error))
    if isinstance(error, OSError):  # a full disk, a folder that is read-only
        return f"{error.strerror or type(error).__name__}: {error.filename or error}"
    if any(word in str(error) for word in OF_DISKS):  # libraries that write files with errors of their own
        return str(error)
    return f"{type(error).__name__}: {error} (unforeseen; --debug shows where)"


def _for_the_command(text: str) -> str:
    """Return an error's text with the command line's advice in place of Python's."""
    for old, new in FOR_THE_COMMAND.items():
        text = text.replace(old, new)
    return text
