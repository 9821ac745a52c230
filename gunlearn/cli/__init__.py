"""The `gunlearn` command. Heavy imports wait until a command needs them, so that help comes at once."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from gunlearn.cli.console import say
from gunlearn.cli.influence import Influence
from gunlearn.cli.listings import Datasets, Estimators, Losses, Methods, Report
from gunlearn.cli.llm import LLM, LLMMethods
from gunlearn.cli.run import Run
from gunlearn.errors import GunlearnError

COMMANDS = {
    "run": Run,
    "influence": Influence,
    "methods": Methods,
    "estimators": Estimators,
    "datasets": Datasets,
    "losses": Losses,
    "llm": LLM,
    "llm-methods": LLMMethods,
    "report": Report,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `gunlearn` and `python -m gunlearn`.

    Raises:
        SystemExit: 1 if every method failed, 2 after a wrong argument, 130 after Ctrl-C.
    """
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="gunlearn", description="Unlearning in graph neural networks and language models.", args=argv
    )
    try:
        code = command()
    except (GunlearnError, NotADirectoryError, FileExistsError, PermissionError) as error:
        if getattr(command, "debug", False):
            raise
        say("error: " + " ".join(str(error).split()), style="red")
        code = 2
    except KeyboardInterrupt:
        code = 130
    if code:
        raise SystemExit(code)
