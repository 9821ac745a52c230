"""The study's models, rows and results: each seed's, kept in files that several processes write."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import nn

from experiments.smollm.going_on import FACTORS, SHARES
from experiments.smollm.learned import learned, record_of
from experiments.smollm.measured import RELEARN, Measure, Measured, with_forget_quality
from experiments.smollm.methods import NAMES, SETTINGS, Budget, Request, run
from experiments.smollm.pieces import LEARNED, UNTOUCHED, Piece, Plan
from experiments.smollm.problem import Problem, Row
from gunlearn.bench.store import atomic_write


@dataclass
class Study:
    """Trains, measures and puts together.

    Attributes:
        problem: of any seed.
        plan: what is to be done.
        out: folder of results.
        budget: of the methods.
        how: how much is measured.
        asked: retained questions that are asked.
        kept: most requests whose models stay in memory.
    """

    problem: Problem
    plan: Plan
    out: Path
    budget: Budget
    how: Measure
    asked: int
    kept: int = 2
    _problems: dict[int, Problem] = field(default_factory=dict)
    _origins: dict[int, tuple[nn.Module, nn.Module]] = field(default_factory=dict)
    _requests: dict[tuple[int, int], OneRequest] = field(default_factory=dict)
    _files: dict[Piece, Path] = field(default_factory=dict)

    def of(self, seed: int) -> Problem:
        """The problem of a seed."""
        if seed not in self._problems:
            self._problems[seed] = self.problem if seed == self.problem.seed else self.problem.with_seed(seed)
        return self._problems[seed]

    def request(self, seed: int, number: int) -> OneRequest:
        """A request of a seed, with its models."""
        found = self._requests.pop((seed, number), None) or OneRequest(self, self.of(seed), number)
        self._requests[seed, number] = found
        for key in list(self._requests)[: -self.kept]:
            del self._requests[key]
        for other in set(self._origins) - {key[0] for key in self._requests}:
            del self._origins[other]
        return found

    def origin(self, seed: int) -> tuple[nn.Module, nn.Module]:
        """The model that learned everything: as an adapter, and merged."""
        if seed not in self._origins:
            problem = self.of(seed)
            model, _ = learned(problem, *taught(problem, Piece(seed, 1, LEARNED)))
            self._origins[seed] = model, problem.merged(model)
        return self._origins[seed]

    def file(self, piece: Piece) -> Path:
        """The file that is there once a piece is done."""
        problem = self.of(piece.seed)
        if piece.trains:
            return record_of(problem, *taught(problem, piece))
        about = [asdict(problem.recipe), problem.bf16, asdict(self.budget), asdict(self.how), self.asked, RELEARN]
        tried = repr([of.get(piece.name) for of in (SETTINGS, FACTORS, SHARES)])
        told = json.dumps([*about, self.plan.retrained, 1 in self.plan.requests, tried])
        return problem.own / "rows" / hashlib.sha256(told.encode()).hexdigest()[:12] / f"{piece.file}.json"

    def done(self, piece: Piece) -> bool:
        """Whether a piece's file is there."""
        if piece not in self._files:
            self._files[piece] = self.file(piece)
        return self._files[piece].exists()

    def work(self, piece: Piece) -> None:
        """Do a piece; a row is put into the results at once."""
        problem, began = self.of(piece.seed), time.perf_counter()
        if piece.trains:
            learned(problem, *taught(problem, piece))
        else:
            found = self.request(piece.seed, piece.request).row(piece.name)
            atomic_write(self.file(piece), json.dumps(found))
            self.put_together(piece.seed)
        print(f"{piece.file}: {time.perf_counter() - began:.1f} s", flush=True)

    def put_together(self, seed: int) -> dict[str, Any]:
        """The results of a seed from the files of all its rows; writes them."""
        problem = self.of(seed)
        results: dict[str, Any] = {}
        history = self.file(Piece(seed, 1, LEARNED, trains=True))
        if history.exists():
            results["recipe"] = asdict(problem.recipe) | {"bf16": problem.bf16} | json.loads(history.read_text())
        with FileLock(self.out / "locks" / "results.lock"):
            for number in (1, 2):
                files = {name: self.file(Piece(seed, number, name)) for name in (*self.plan.fixed, *UNTOUCHED, *NAMES)}
                found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
                if found:
                    results[f"request {number}"] = {
                        "rows": with_forget_quality([one["row"] for one in found.values()]),
                        "tried": {name: one["tried"] for name, one in found.items() if "tried" in one},
                        "unseen": next(iter(found.values()))["unseen"],
                    }
            atomic_write(self.out / results_file(seed), json.dumps(results, indent=1))
        return results


@dataclass
class OneRequest:
    """One request of one seed: its models, made when they are first asked for."""

    study: Study
    problem: Problem
    number: int

    @cached_property
    def first(self) -> Request:
        """The request, put to the model that learned everything."""
        study = self.study
        return Request(self.problem, self.number, *study.origin(self.problem.seed), study.budget, study.asked)

    @cached_property
    def retrained(self) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
        """The retrained models by name, with their histories."""
        out = {}
        for name in self.study.plan.fixed:
            model, history = learned(self.problem, *taught(self.problem, Piece(self.problem.seed, self.number, name)))
            out[name] = self.problem.measurable(model), history
        return out

    @cached_property
    def measured(self) -> Measured:
        """What measures the models."""
        known = [self.folder(name).name for name in ("original", *self.retrained)]
        return Measured(self.first, [model for model, _ in self.retrained.values()], known, self.study.how)

    def folder(self, name: str) -> Path:
        """The folder of a model that no method made: no two recipes, precisions or draws share one."""
        if name == "pretrained":
            return self.problem.own / name
        piece = Piece(self.problem.seed, self.number, LEARNED if name == "original" else name)
        return record_of(self.problem, *taught(self.problem, piece)).parent

    def row(self, name: str) -> dict[str, Any]:
        """The figures of a model, and for a method all that was tried."""
        told: dict[str, Any] = {"unseen": self.first.unseen}
        own: dict[str, Callable[[], nn.Module]] = {
            "original": lambda: self.first.original,
            "pretrained": lambda: self.problem.pretrained,
            **{known: lambda known=known: self.retrained[known][0] for known in self.retrained},
        }
        if name in own:
            model, place = own[name](), self.folder(name)
            costs = (
                {key: self.retrained[name][1][key] for key in ("steps", "seconds")} if name in self.retrained else {}
            )
        else:
            adapted, found = run(name, self.put(name))
            model, place = self.problem.measurable(adapted), found["place"]
            costs = {key: found[key] for key in ("setting", "steps", "seconds")}
            told["tried"] = found["tried"]
        return told | {"row": self.measured.of(name, model, place) | costs | self.problem.about}

    def put(self, name: str) -> Request:
        """The request as it is put to what a method made of the first one."""
        if self.number == 1 or 1 not in self.study.plan.requests:
            return self.first
        earlier = self.study.request(self.problem.seed, 1)
        start, _ = run(name, earlier.first)
        return replace(self.first, start=start)


def taught(problem: Problem, piece: Piece) -> tuple[list[Row], int]:
    """The rows that a model learns, all or those that are retained, and the number of its draw."""
    if piece.name == LEARNED:
        return problem.full, 0
    return problem.retain(piece.request), 10 * piece.request - 9 + int(piece.name.rpartition(" ")[2])


def results_file(seed: int) -> str:
    """The file of a seed's results."""
    return "results.json" if seed == 0 else f"results-seed{seed}.json"
