"""One function per measurement; each takes and returns what JSON holds, and runs in a process of its own."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from experiments.speed.bandwidth import bandwidth, cache_bytes
from experiments.speed.bound import Sizes
from experiments.speed.clocks import Memory, Watch, block, now, timed
from experiments.speed.parts import Profile, Profiled, marked, mebibytes
from experiments.speed.plain import PlainGraph, PlainINPO
from experiments.speed.plain_csr import CsrINPO
from experiments.speed.plain_training import PlainTraining, plain_evaluate
from experiments.speed.problems import SEED, as_plain, cold, new_model, official, sizes, synthetic
from experiments.speed.requests import auto, room, unlink
from gunlearn.bench import ModelStore, Recipe
from gunlearn.methods import INPO, Callback, Retrain, run_method
from gunlearn.metrics import LinkEvaluator
from gunlearn.metrics.ranking import separation
from gunlearn.tasks import LinkPrediction

TASK = LinkPrediction()
#: Too small to move a weight: a step costs the same, and no run ends early because its goal is reached.
STILL = 1e-6


def memory_bandwidth(device: str = "cpu", smoke: bool = False, repeats: int = 15) -> dict[str, Any]:
    found = bandwidth(device, repeats=repeats, arrays_bytes=2**22 if smoke else None)
    return {**found, "cache_bytes": cache_bytes(device)}


#: The opponents of a step: the class, and whether both directions of an edge are scored.
SIDES: dict[str, tuple[type[PlainINPO], bool]] = {
    "plain": (PlainINPO, True), "plain_one_way": (PlainINPO, False),
    "csr": (CsrINPO, True), "csr_one_way": (CsrINPO, False),
}  # fmt: skip


def step(
    dataset: str, mode: str, ratio: float, root: str | None = None, device: str = "cpu", rounds: int = 3,
    steps: int = 3, smoke: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Blocks of steps in turns, ours and opponents; `machine`: what the memory delivered, the median of the turns."""
    data, request = official(dataset, root, ratio, device)
    partition, model = request.resolve(data), new_model(data.num_features, 128, device)
    method = INPO(mode=mode, dataset=dataset, epochs=steps + 1, lr=STILL)
    sides = {n: cls(as_plain(model), PlainGraph.of(partition, both), method) for n, (cls, both) in SIDES.items()}
    seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in sides}}
    delivered = []
    for _ in range(rounds):
        delivered.append(memory_bandwidth(device, smoke, repeats=3))
        watch = Watch(device)
        run_method(method, model, partition, TASK, SEED, [watch])
        seconds["ours"] += watch.seconds
        for name, side in sides.items():
            seconds[name] += block(side.step, steps, device)
    machine = {name: statistics.median(found[name] for found in delivered) for name in delivered[0]}
    return {"seconds": seconds, "sizes": sizes(partition, 128), "machine": machine}


def parts(dataset: str, mode: str, ratio: float, root: str | None = None, steps: int = 8) -> dict[str, Any]:
    """Seconds of the kinds of passes in a step of ours, on CPU, and the bytes that they must move in MiB."""
    data, request = official(dataset, root, ratio)
    partition, model = request.resolve(data), new_model(data.num_features, 128)
    counted = sizes(partition, 128)
    seen = Profile(Sizes(**counted))
    method = INPO(mode=mode, dataset=dataset, epochs=steps + 2, lr=STILL)
    with marked():
        run_method(method, model, partition, TASK, SEED, [Profiled(seen, steps)])
    mb = mebibytes(Sizes(**counted), mode, cache_bytes())
    return {"seconds": seen.seconds, "mb": mb, "sizes": counted}


def prepare(file: str, dataset: str, ratio: float, root: str | None = None) -> dict[str, Any]:
    """What PyG's own data sets keep on disk: dense tensors, ready to be read."""
    data, request = official(dataset, root, ratio)
    torch.save(vars(PlainGraph.of(request.resolve(data))), file)
    return {}


def memory(
    side: str, mode: str, dataset: str, ratio: float, root: str | None = None, file: str | None = None,
    device: str = "cpu", steps: int = 3,
) -> dict[str, Any]:  # fmt: skip
    """Peak memory of loading, setting up and a few steps; ours reads the raw files, plain its prepared tensors."""
    watched = Memory(device)
    method = INPO(mode=mode, dataset=dataset, epochs=steps, lr=STILL)
    if side == "ours":
        data, request = official(dataset, root, ratio, device, sparse=True)
        partition, model = request.resolve(data), new_model(data.num_features, 128, device)
        watched.end("load")
        run_method(method, model, partition, TASK, SEED, [Watch(device, watched)])
    else:
        tensors = torch.load(file, map_location=device, weights_only=True)
        graph, model = PlainGraph(**tensors), None
        del tensors
        model = as_plain(new_model(graph.x.size(1), 128, device))
        watched.end("load")
        _plain_steps(model, graph, method, steps, device, watched)
    return {"mb": watched.phases}


def _plain_steps(
    model: Any, graph: PlainGraph, method: INPO, steps: int, device: str, watched: Memory,
    cls: type[PlainINPO] = PlainINPO,
) -> list[float]:  # fmt: skip
    plain = cls(model, graph, method)
    watched.end("setup")
    seconds = block(plain.step, steps, device)
    watched.read("steps")
    return seconds


def scale(
    side: str, mode: str, edges: int, features: int = 128, hidden: int = 64, device: str = "cpu", steps: int = 5
) -> dict[str, Any]:
    """Time and peak memory of steps on a power-law graph."""
    watched = Memory(device)
    data, request = synthetic(edges, features, device)
    partition, model = request.resolve(data), new_model(features, hidden, device)
    method = INPO(mode=mode, epochs=steps + 1, lr=STILL)
    if side == "ours":
        watched.end("load")
        watch = Watch(device, watched)
        run_method(method, model, partition, TASK, SEED, [watch])
        seconds = watch.seconds
    else:
        graph, model = PlainGraph.of(partition), as_plain(model)
        counted = sizes(partition, hidden)
        del data, partition
        watched.end("load")
        seconds = _plain_steps(model, graph, method, steps, device, watched, SIDES[side][0])
        return {"seconds": seconds, "mb": watched.phases, "sizes": counted}
    return {"seconds": seconds, "mb": watched.phases, "sizes": sizes(partition, hidden)}


def run(
    dataset: str, mode: str, ratio: float, models: str, root: str | None = None, device: str = "cpu",
    repeats: int = 5, steps: int = 5, base_epochs: int = 2000, epochs: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Whole runs of ours, each cold; in turns with the parts of a plain run."""
    data, request = official(dataset, root, ratio, device)
    base = ModelStore(models, Recipe(epochs=base_epochs), TASK).base(data, SEED).model
    method = INPO(mode=mode, dataset=dataset, epochs=epochs)
    graph, data = PlainGraph.of(cold(data, request)), official(dataset, root, ratio, device, sparse=True)[0]
    out: dict[str, Any] = {"ours": [], "setup": [], "step": [], "csr_step": [], "evaluation": []}
    for _ in range(repeats):
        partition = cold(data, request)
        start = now(device)
        result = run_method(method, base, partition, TASK, SEED)
        out["figures"] = LinkEvaluator(TASK, partition, seed=SEED).row(result.model)
        out["ours"].append(now(device) - start)
        plain_model = as_plain(base)
        seconds, plain = timed(lambda start=plain_model: PlainINPO(start, graph, method), device)
        out["setup"].append(seconds)
        out["step"] += block(plain.step, max(1, -(-steps // repeats)), device)
        out["csr_step"] += block(CsrINPO(plain_model, graph, method).step, max(1, -(-steps // repeats)), device)
        out["evaluation"].append(timed(lambda side=plain: plain_evaluate(side.model, graph, SEED), device)[0])
    out |= {"epochs": result.epochs, "val_auc": validation_auc(result.model, partition)}
    return {**out, "sizes": sizes(partition, 128)}


def retrain(
    dataset: str, ratio: float, models: str, targets: dict[str, float], root: str | None = None, device: str = "cpu",
    base_epochs: int = 2000, cap: int = 2000, every: int = 25, steps: int = 5,
) -> dict[str, Any]:  # fmt: skip
    """Our retraining until its validation AUC has reached all targets, and what a plain training step takes."""
    data, request = official(dataset, root, ratio, device)
    base = ModelStore(models, Recipe(epochs=base_epochs), TASK).base(data, SEED).model
    partition = cold(data, request)
    curve = Reach(partition, max(targets.values()))
    run_method(Retrain(epochs=cap, eval_every=every), base, partition, TASK, SEED, [curve])
    reached = {name: next((p for p in curve.points if p["val_auc"] >= auc), None) for name, auc in targets.items()}
    training = PlainTraining(as_plain(new_model(data.num_features, 128, device)), PlainGraph.of(partition))
    plain_step = statistics.median(block(training.step, steps, device))
    return {"reached": reached, "last": curve.points[-1], "plain_step": plain_step, "sizes": sizes(partition, 128)}


class Reach(Callback):
    """Validation AUC at each validation; ends the run where it reaches a target. Its own time is not the run's."""

    def __init__(self, partition: Any, target: float) -> None:
        self.partition, self.target, self.points = partition, target, []

    def on_evaluate(self, args: Any, state: Any, control: Any, *, model: torch.nn.Module, **kwargs: Any) -> None:
        auc = validation_auc(model, self.partition)
        self.points.append({"epoch": state.epoch, "seconds": state.seconds, "val_auc": auc})
        control.should_training_stop |= auc >= self.target


@torch.no_grad()
def validation_auc(model: torch.nn.Module, partition: Any) -> float:
    """AUC of validation edges against their negatives, on the retained graph."""
    items = TASK.validation_items(partition.retain_data)
    mode = model.training
    score = TASK.decode(model.eval(), TASK.encode(model, partition.retain_data), items).logits
    model.train(mode)
    return separation(score[items.label == 1], score[items.label == 0])[0]


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (memory_bandwidth, step, parts, prepare, memory, scale, run, retrain, unlink, room, auto)
}
