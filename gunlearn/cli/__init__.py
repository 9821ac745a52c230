"""The `gunlearn` command. Heavy modules load when a command uses them, not for help."""

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
__getattr__, __dir__ = lazy(__name__, {})


def main(argv: Sequence[str] | None = None) -> None:
    """Run `gunlearn`. SystemExit has code 1 if all methods failed, 2 after an error, 130 after Ctrl-C."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="gunlearn", description="Unlearning in graph neural networks and language models.", args=argv
    )
    try:
        code = command()
    except (GunlearnError, NotADirectoryError, FileExistsError, PermissionError) as error:
        if getattr(command, "debug", False):
            raise
        gunlearn.cli.console.say("error: " + " ".join(str(error).split()), style="red")
        code = 2
    except KeyboardInterrupt:
        code = 130
    if code:
        raise SystemExit(code)
