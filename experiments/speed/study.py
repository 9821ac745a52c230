"""The parts of the study: which measurements make a row."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.speed.bound import Sizes, markdown, step_bytes
from experiments.speed.measures import SIDES
from experiments.speed.problems import SEED
from experiments.speed.worker import measure

if TYPE_CHECKING:
    from experiments.speed.__main__ import Args

MODES = ("paper", "default")
#: Requests on prepared graphs and on others, on the largest graphs, which `auto` is not measured on.
_REPEATS = {"products/10": (5, 1), "products": (3, 0)}
PLAIN_UP_TO = 1e6  # edges: beyond, the plain formulation's messages fill the memory


class Study:
    """Makes rows from measurements."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.measure = partial(measure, inline=args.smoke)

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What the memory delivers; single requests do not ask for it."""
        return self.measure("memory_bandwidth", device=self.args.device, smoke=self.args.smoke)

    @property
    def stream(self) -> float:
        return max(self.machine["copy"], self.machine["triad"])

    def know(self, machine: dict[str, float]) -> None:
        """Take what the memory delivers, for the bounds of the next rows."""
        self.machine = machine

    def row(
        self, case: str, mode: str, ours: Sequence[float], plain: Sequence[float] | None, found: dict[str, Any],
        **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Medians and the columns that all rows share."""
        ours_s, plain_s = statistics.median(ours), None if plain is None else statistics.median(plain)
        sizes = Sizes(**found["sizes"])
        common = {
            "case": case, "ours_s": ours_s, "plain_s": plain_s, "ratio": None if plain_s is None else plain_s / ours_s,
            "ours_mb": None, "plain_mb": None, "edges": sizes.forget + sizes.retain, "bound_s": None,
        }  # fmt: skip
        circumstances = {
            "mode": mode, "repeats": len(ours), "ours_spread": _spread(ours),
            "plain_spread": None if plain is None else _spread(plain), "seed": SEED, "device": self.args.device,
            "smoke": self.args.smoke, "sizes": found["sizes"], "stream_gb_s": self.stream / 1e9,
            "gather_gb_s": self.machine["gather"] / 1e9, "cache_mb": self.machine["cache_bytes"] / 2**20,
            "threads": found["threads"], "busy": found["busy"], "versions": found["versions"], "note": "",
        }  # fmt: skip
        return {**common, **circumstances, **more}

    def bounds(self, found: dict[str, Any], mode: str) -> dict[str, float]:
        moved = step_bytes(Sizes(**found["sizes"]), mode, self.machine["cache_bytes"])
        return {f"{name}_s": moved[name] / self.stream for name in ("bound", "compulsory")}

    def step(self, dataset: str) -> Iterator[dict[str, Any]]:
        args = self.args
        rounds = 1 if args.smoke else 3
        problem = {"dataset": dataset, **args.problem}
        with tempfile.TemporaryDirectory() as scratch:
            file = str(Path(scratch) / "prepared.pt")
            self.measure("prepare", file=file, **problem)
            for mode in MODES:
                common = {"mode": mode, "device": args.device, **problem}
                found = self.measure("step", rounds=rounds, steps=-(-args.steps // rounds), smoke=args.smoke, **common)
                self.know(found["machine"])
                peaks = {
                    side: self.measure("memory", side=side, file=file, **common)["mb"] for side in ("ours", "plain")
                }
                phases = {f"{side}_{phase}_mb": mb for side, p in peaks.items() for phase, mb in p.items()}
                seconds = found["seconds"]
                row = self.row(
                    _case("step", dataset, mode), mode, seconds["ours"], seconds["plain"], found,
                    ours_mb=_highest(peaks["ours"]), plain_mb=_highest(peaks["plain"]), **phases,
                    **{f"{name}_s": statistics.median(seconds[name]) for name in SIDES if name != "plain"},
                    **self.bounds(found, mode),
                )  # fmt: skip
                for name in ("csr", "csr_one_way"):
                    row[f"{name}_ratio"] = row[f"{name}_s"] / row["ours_s"]
                row["over_bound"] = row["ours_s"] / row["bound_s"]
                yield row
                if args.device == "cpu":
                    yield self.parts(dataset, mode)

    def parts(self, dataset: str, mode: str) -> dict[str, Any]:
        """What a step is made of."""
        steps = {"steps": 1} if self.args.smoke else {}
        found = self.measure("parts", dataset=dataset, mode=mode, **self.args.problem, **steps)
        ours = sum(found["seconds"].values())
        row = self.row(_case("parts", dataset, mode), mode, [ours], None, found, ours_spread=None)
        kinds = {
            kind: f"{1e3 * s:.1f} ms, {s / ours:.0%}, {found['mb'][kind]:.0f} MiB"
            for kind, s in found["seconds"].items()
        }
        return {**row, **kinds}

    def run(self, dataset: str) -> Iterator[dict[str, Any]]:
        args = self.args
        done, medians = {}, {}
        for mode in MODES:
            repeats = args.paper_runs if mode == "paper" else args.runs
            epochs = 5 if args.smoke else None
            found = self.measure(
                "run", dataset=dataset, mode=mode, repeats=repeats, steps=args.steps, epochs=epochs, **args.trained
            )
            parts = {name: statistics.median(found[name]) for name in ("setup", "step", "csr_step", "evaluation")}
            rest = parts["setup"] + parts["evaluation"]
            total, csr = (rest + found["epochs"] * parts[name] for name in ("step", "csr_step"))
            note = f"plain: setup {parts['setup']:.3g} s + {found['epochs']} x step {parts['step']:.3g} s + evaluation "
            note += f"{parts['evaluation']:.3g} s"
            figures = {name: found["figures"][name] for name in ("retain_auc", "forget_auc")}
            row = self.row(
                _case("run", dataset, mode), mode, found["ours"], [total], found, epochs=found["epochs"], note=note,
                plain_spread=_spread(found["step"]), val_auc=found["val_auc"], csr_s=csr, **figures,
            )  # fmt: skip
            row["csr_ratio"] = csr / row["ours_s"]
            done[mode], medians[mode] = found, row["ours_s"]
            yield row
        targets = {mode: found["val_auc"] for mode, found in done.items()}
        cap = {"cap": 50} if args.smoke else {}
        found = self.measure("retrain", dataset=dataset, targets=targets, **args.trained, **cap)
        for mode, point in found["reached"].items():
            last, target = found["last"], targets[mode]
            point, note = (point, "") if point else (
                last, f"did not reach {target:.4f} in {last['epoch']} epochs, which took the time given"
            )  # fmt: skip
            yield self.row(
                _case("retrain", dataset, mode), mode, [medians[mode]], [point["seconds"]], found,
                epochs=point["epoch"], val_auc=target, plain_training_s=point["epoch"] * found["plain_step"],
                reached=not note, note=note, ours_spread=None, plain_spread=None,
            )  # fmt: skip

    def scale(self, edges: float, features: int) -> Iterator[dict[str, Any]]:
        for mode in MODES:
            common = {"mode": mode, "edges": int(edges), "features": features, "device": self.args.device}
            steps = 1 if self.args.smoke else max(5, self.args.steps // 2)
            found = self.measure("scale", side="ours", steps=steps, **common)
            plain, csr, note = None, None, ""
            if edges <= PLAIN_UP_TO:
                try:
                    plain, csr = (self.measure("scale", side=side, steps=steps, **common) for side in ("plain", "csr"))
                except RuntimeError as error:
                    note = f"plain did not end: {error}"
            phases = {f"{side}_{phase}_mb": mb for side, one in (("ours", found), ("plain", plain or {"mb": {}}))
                      for phase, mb in one["mb"].items()}  # fmt: skip
            bounds, suffix = self.bounds(found, mode), "" if features == 128 or self.args.smoke else f"-f{features}"
            row = self.row(
                _case("scale", _size(edges) + suffix, mode), mode, found["seconds"], plain and plain["seconds"], found,
                ours_mb=_highest(found["mb"], "load"), plain_mb=_highest(plain["mb"], "load") if plain else None,
                features=features, **phases, **bounds, note=note,
            )  # fmt: skip
            if csr is not None:
                row["csr_s"] = statistics.median(csr["seconds"])
                row["csr_ratio"] = row["csr_s"] / row["ours_s"]
            row["ours_edge_ns"] = row["ours_s"] / row["edges"] * 1e9
            row["over_bound"] = row["ours_s"] / row["bound_s"]
            passes = markdown(Sizes(**found["sizes"]), mode, self.machine["cache_bytes"])
            (self.args.out / f"bytes-{_size(edges)}{suffix}-{mode}.md").write_text(passes + "\n")
            yield row

    def requests(self) -> Iterator[dict[str, Any]]:
        """Single requests on large graphs; nothing of `bound`, which is of a step."""
        for graph in self.args.graphs:
            repeats, plain = (2, 2) if self.args.smoke else _REPEATS.get(graph, (7, 5))
            found = self.measure("unlink", graph=graph, repeats=repeats, plain=plain)
            peak = self.measure("room", graph=graph)["peak_mb"]
            for task, spent in found["seconds"].items():
                one, medians = spent["ours"], {}
                for name, times in ((name, times) for name, times in spent.items() if times):
                    for which, unit in enumerate(("s", "cpu_s")):
                        medians[f"{name}_{unit}"] = statistics.median(each[which] for each in times)
                kind = "node" if task == "node_classification" else "edge"
                row = _request(f"utu-{graph}-{kind}", found, medians, [each[0] for each in one])
                yield {**row, "peak_mb": peak}
            if graph in _REPEATS or "auto" not in self.args.methods:
                continue
            found = self.measure("auto", graph=graph, repeats=1)
            step = found["seconds"]["step"]
            for how in ("state", "no state"):
                times = found["seconds"][how]
                cpu, taken = (statistics.median(each[k] for each in times) for k in (1, 2))
                values = {"ours_s": statistics.median(each[0] for each in times), "ours_cpu_s": cpu}
                values |= {"step_s": step, "in_steps": cpu / step, "steps": taken}
                yield _request(f"auto-{graph}-{how.replace(' ', '-')}", found, values, [each[0] for each in times])

    def rows(self) -> Iterator[dict[str, Any]]:
        for part in self.args.only:
            if part == "requests":
                yield from self.requests()
            elif part == "scale":
                for features in self.args.features:
                    for edges in self.args.sizes:
                        yield from self.scale(edges, features)
            else:
                for dataset in self.args.datasets:
                    yield from getattr(self, part)(dataset)


def _request(what: str, found: dict[str, Any], values: dict[str, Any], ours: Sequence[float]) -> dict[str, Any]:
    """The row of one kind of request."""
    plain = values.get("plain_s")
    shared = {name: found[name] for name in ("nodes", "edges", "busy", "threads", "versions")}
    empty = dict.fromkeys(("plain_s", "ours_mb", "plain_mb", "bound_s"))
    ratio = None if plain is None else plain / values["ours_s"]
    return {"case": f"requests-{what}", **empty, **values, **shared, "ratio": ratio, "ours_spread": _spread(ours)}


def _case(part: str, what: str, mode: str) -> str:
    return f"{part}-{what}" + ("" if mode == "paper" else "-default")


def _size(edges: float) -> str:
    short = f"{edges:.0e}"
    return short.replace("e+0", "e") if float(short) == edges else str(int(edges))


def _spread(seconds: Sequence[float]) -> float | None:
    """Interquartile range over the median."""
    if len(seconds) < 2:
        return None
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / statistics.median(seconds)


def _highest(phases: dict[str, float | None], without: str | None = None) -> float | None:
    known = [mb for phase, mb in phases.items() if mb is not None and phase != without]
    return max(known, default=None)
