"""The `gunlearn` command. Heavy modules load when a command uses them, not for help."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

import gunlearn
from gunlearn.cli.grid_command import Run
from gunlearn.cli.influence import InfluenceCommand
from gunlearn.cli.listings import Datasets, Estimators, FiguresCommand, Losses, Methods, Report
from gunlearn.cli.llm import LLM, LLMMethods
from gunlearn.core.lazy import lazy
from gunlearn.errors import GunlearnError

COMMANDS: dict[str, Callable[..., Any]] = {
    "run": Run,
    "influence": InfluenceCommand,
    "methods": Methods,
    "figures": FiguresCommand,
    "estimators": Estimators,
    "datasets": Datasets,
    "losses": Losses,
    "llm": LLM,
    "llm-methods": LLMMethods,
    "report": Report,
}
_DESCRIPTION = "Unlearning in graph neural networks and language models. 'gunlearn --version' tells the version."
__getattr__, __dir__ = lazy(__name__, {})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `gunlearn`. SystemExit has code 1 if a method failed everywhere, 2 after an error, 130 after Ctrl-C."""
    if [*(sys.argv[1:] if argv is None else argv)] == ["--version"]:
        print(f"gunlearn {gunlearn.__version__}")
        return
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="gunlearn", description=_DESCRIPTION, args=argv)
    try:
        code = command()
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
        return str(error)
    if isinstance(error, OSError):  # a full disk, a folder that is read-only
        return f"{error.strerror or type(error).__name__}: {error.filename or error}"
    return f"{type(error).__name__}: {error} (unforeseen; --debug shows where)"
