"""The study in pieces, each a model to train or a row to measure, that several processes can share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.smollm.going_on import CONTROL, FRESH, LONGER, SHRUNK

#: Rows that are measured first where there are several seeds.
FIRST = (SHRUNK, LONGER, FRESH, CONTROL, "npo")
#: Rows of models that no method made, beside the retrained ones.
UNTOUCHED = ("original", "pretrained")
LEARNED = "learned"
_PAUSE = 0.5  # seconds


@dataclass(frozen=True)
class Piece:
    """What one process does at a time.

    Attributes:
        seed: of the problem.
        request: 1 or 2.
        name: the model.
        trains: whether a model learns, without being measured.
    """

    seed: int
    request: int
    name: str
    trains: bool = False

    @property
    def file(self) -> str:
        """A name for files."""
        kind = "learn-" if self.trains else ""
        return f"seed{self.seed}-request{self.request}-{kind}{self.name.replace(' ', '_').replace(',', '')}"


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        seeds: of the problem.
        requests: 1, 2 or both.
        methods: rows.
        retrained: models trained without what each request forgets.
    """

    seeds: Sequence[int]
    requests: Sequence[int]
    methods: Sequence[str]
    retrained: int

    @property
    def fixed(self) -> list[str]:
        """The names of the retrained models."""
        return [f"retrained {i}" for i in range(self.retrained)]

    def pieces(self) -> list[Piece]:
        """All pieces, the most wanted first: the first seed's rows of a request, then `FIRST` of other seeds."""
        before = (*self.fixed, *UNTOUCHED)
        others = [name for name in self.methods if name not in FIRST]
        first = [name for name in self.methods if name in FIRST]
        out: list[Piece] = []
        for request in self.requests:
            for seed in self.seeds:
                out += self.models(seed, request)
                if seed == self.seeds[0]:
                    out += [Piece(seed, request, name) for name in (*before, *self.methods)]
            for names in ((*before, *first), others):
                out += [Piece(seed, request, name) for seed in self.seeds[1:] for name in names]
        return list(dict.fromkeys(out))

    def models(self, seed: int, request: int) -> list[Piece]:
        """The models that a row is compared with."""
        learned = Piece(seed, self.requests[0], LEARNED, trains=True)
        return [learned, *(Piece(seed, request, name, trains=True) for name in self.fixed)]

    def needs(self, piece: Piece) -> list[Piece]:
        """What is done before a piece."""
        if piece.trains:
            return []
        earlier = piece.request == 2 and 1 in self.requests and piece.name in self.methods
        before = [Piece(piece.seed, 1, piece.name)] if earlier else []
        return self.models(piece.seed, piece.request) + before


def share(
    plan: Plan,
    done: Callable[[Piece], bool],
    work: Callable[[Piece], None],
    locks: Path,
    until: float | None = None,
    skip_failed: bool = False,
) -> list[Piece]:
    """Do the pieces that no other process does, the first ones first; return those that are not done.

    A piece is locked while it is worked on, and the system unlocks it when its process ends. Waits for pieces of other
    processes, and for pieces that need those.

    Args:
        plan: what is to be done.
        done: whether a piece's result is there.
        work: does a piece.
        locks: folder of locks, and of marks of pieces that failed.
        until: time (`time.monotonic`) after which no piece is begun.
        skip_failed: leave out pieces that failed in any process, and those that need them.
    """
    locks.mkdir(parents=True, exist_ok=True)

    def failed(piece: Piece) -> bool:
        marked = skip_failed and (locks / f"{piece.file}.failed").exists()
        return marked or any(map(failed, plan.needs(piece)))

    def over(piece: Piece) -> bool:
        return done(piece) or failed(piece)

    left = plan.pieces()
    while True:
        left = [piece for piece in left if not done(piece)]
        possible = [piece for piece in left if not failed(piece)]
        if not possible or (until is not None and time.monotonic() > until):
            return left
        ready = (piece for piece in possible if all(map(done, plan.needs(piece))))
        if not any(_did(piece, over, work, locks) for piece in ready):
            time.sleep(_PAUSE)


def _did(piece: Piece, over: Callable[[Piece], bool], work: Callable[[Piece], None], locks: Path) -> bool:
    """Do a piece, unless another process does it or has tried it."""
    try:
        with FileLock(locks / f"{piece.file}.lock", blocking=False):
            if over(piece):
                return False
            try:
                work(piece)
            except Exception as error:
                (locks / f"{piece.file}.failed").write_text(f"{type(error).__name__}: {error}\n")
                raise
            return True
    except Timeout:
        return False
