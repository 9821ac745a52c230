"""Passes of one model over rows: shared between processes, and kept until the evaluation is whole."""

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gunlearn.core.atomic import write_file
from gunlearn.core.owner_key import seal, unseal
from gunlearn.errors import GunlearnError, InvalidInputError
from gunlearn.training.processes import Processes, processes

_PURPOSE = "pass of an evaluation"


class RowPasses:
    """Run passes; one that ran before the evaluation was interrupted is read instead.

    Args:
        folder: where passes are kept, sealed under the owner's key, since they hold what the model said; `None` keeps
            none.
        identity: what passes depend on; those of another identity are not read.
        team: the processes that share the rows.
        say: is told, on the main process, what runs.
    """

    def __init__(
        self,
        folder: Path | None = None,
        identity: str = "",
        team: Processes | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.folder, self.identity, self.team, self.say = folder, identity, team or processes(), say

    def run(self, name: str, number: int, work: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        """Return a value for each of `number` rows; on other processes than the main one, nothing.

        `work` returns the values of the rows at the given indices. Errors of one process are raised by all.
        """
        kept = self._read(name)
        if self._agreed(kept is not None):
            return kept or []
        if self.say is not None and self.team.main:
            self.say(f"{name} ({number} rows)")
        mine = list(range(number))[self.team.rank :: self.team.world]
        found, error = [], None
        try:
            found = [*zip(mine, work(mine) if mine else [], strict=True)]
        except GunlearnError as raised:
            error = raised
        pairs, errors = self._gathered(found), self._gathered([] if error is None else [f"{error}"])
        if error is not None:
            raise error
        if errors:
            raise InvalidInputError(errors[0])
        values = [value for _, value in sorted(pairs, key=lambda pair: pair[0])] if self.team.main else []
        self._write(name, values)
        return values

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, on every process; it runs on all of them, unless it was kept."""
        kept = self._read(name)
        if self._agreed(kept is not None):
            return kept
        value = work()
        self._write(name, value)
        return value

    def close(self) -> None:
        """Remove what was kept."""
        if self.folder is not None and self.team.main:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.team.wait()

    def _agreed(self, kept: bool) -> bool:
        return bool(self.team.agree(float(kept))[0])

    def _gathered(self, values: list[Any]) -> list[Any]:
        if self.team.world == 1:
            return values
        from accelerate.utils import gather_object

        return gather_object(values)

    def _read(self, name: str) -> Any:
        path = None if self.folder is None else self.folder / name
        if path is None or not self.team.main or not path.is_file():
            return None
        content = unseal(path.read_bytes(), _PURPOSE)
        kept = None if content is None else torch.load(io.BytesIO(content), weights_only=True)
        return None if kept is None or kept["identity"] != self.identity else kept["values"]

    def _write(self, name: str, values: Any) -> None:
        if self.folder is not None and self.team.main:
            buffer = io.BytesIO()
            torch.save({"identity": self.identity, "values": values}, buffer)
            write_file(self.folder / name, seal(buffer.getvalue(), _PURPOSE), private=True)
