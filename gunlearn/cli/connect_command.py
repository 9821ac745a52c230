"""`gunlearn connect`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import gunlearn
from gunlearn.cli.fields import Flag, Folder, Real, Text, Texts, Whole
from gunlearn.cli.grid_command import Run
from gunlearn.core.printable import printable
from gunlearn.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from gunlearn.training.result import Result

_CURVE = ("num_bends", "steps", "lr", "batch_size", "forgetting", "bound", "t", "optimizer")
_OF_TEXTS = ("config.json", "adapter_config.json")
_Run = Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
_Runs = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")]


@dataclass(frozen=True)
class Connect:
    """Tell what lies between two saved models: losses and figures along a straight line or a trained curve.

    Models are folders that 'Result.save' wrote; options say on which data and for which request they are judged, and
    which model they are, as of 'gunlearn run'. Writes path.json, path.png and the path itself.

    Args:
        first: Folder of the model at t = 0.
        second: Folder of the model at t = 1.
        dataset: A name (see 'gunlearn datasets'), or a folder or file (docs/data.md).
        root: Folder of the raw files, laid out as PyG does; without it $GUNLEARN_DATA, else ./data.
        task: What the models predict.
        forget: What was forgotten: edges, nodes, features, graphs or items. Edges by default, of images items.
        ratio: Share of them; 0.005 of the edges, 0.05 of the nodes where neither this nor --count is given.
        count: Number of them.
        forget_file: File of what was forgotten, in place of a draw: an id per line, for edges two.
        labels: Classes that were forgotten, with --forget classes, by number or name.
        seed: Of the split and of the draw.
        model: A function (data, seed) of your own that returns a model of the same architecture, in place of the next.
        backbone: The model; gcn by default, of images cnn.
        hidden_channels: Size of its hidden layer.
        out_channels: Size of its embeddings (link prediction).
        num_layers: Number of its convolutions.
        align: Bring the second model's units into the first one's order and scale, by this.
        child: What stands between both in place of the path's models (docs/alignment.md).
        path: A straight line, a Bezier curve, or a chain of straight lines; the last two are trained.
        num_bends: Points between the two models.
        steps: Optimiser steps of the curve.
        lr: Its learning rate.
        batch_size: Items per step; all by default, of more than 4096 images 128.
        forgetting: Weight of the term that keeps the curve from models that remember.
        bound: Where their loss stops to count in this term, in nats; 8 by default.
        t: How the point of a step is drawn, uniform by default; normal is near the middle.
        optimizer: Of the curve, a name of torch.optim or sophia_g; adam by default.
        start: Where bends begin; original needs --original.
        original: Folder of the model before unlearning.
        references: Folders of models that were trained without what was forgotten.
        metrics: Further figures along the path, such as mia_acc or relearn_steps.
        points: Number of points of the evaluation.
        tolerance_retain: How large the barrier of connected models may be, in nats.
        tolerance_forget: The same of the forgotten items.
        out: Folder of the outputs; runs/connect by default.
        threads: Threads to compute with.
        progress: Show no bar.
        debug: Show the traceback of an error.
    """

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]
    dataset: str = "digits"
    root: Folder = None
    task: Literal["link_prediction", "node_classification", "graph_classification", "image_classification"] = (
        "link_prediction"
    )
    forget: Annotated[
        Literal["edges", "nodes", "features", "graphs", "items", "classes"] | None,
        tyro.conf.arg(metavar="{edges,nodes,features,graphs,items,classes}", help_behavior_hint=""),
    ] = None
    ratio: Real = None
    count: Whole = None
    forget_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    labels: Texts = ()
    seed: int = 0
    model: Annotated[str | None, tyro.conf.arg(metavar="PATH.py:FUNCTION", help_behavior_hint="")] = None
    backbone: Annotated[
        Literal["gcn", "sage", "gat", "gin", "sgc", "appnp", "gcnii", "cnn", "resnet"] | None,
        tyro.conf.arg(metavar="{gcn,sage,gat,gin,sgc,appnp,gcnii,cnn,resnet}", help_behavior_hint=""),
    ] = None
    hidden_channels: Whole = None
    out_channels: int = 64
    num_layers: Whole = None
    align: Annotated[
        Literal["weights", "activations", "messages"] | None,
        tyro.conf.arg(metavar="{weights,activations,messages}", help_behavior_hint=""),
    ] = None
    child: Annotated[
        Literal["calibrated", "merged"] | None, tyro.conf.arg(metavar="{calibrated,merged}", help_behavior_hint="")
    ] = None
    path: Literal["linear", "bezier", "chain"] = "linear"
    num_bends: Whole = None
    steps: Whole = None
    lr: Real = None
    batch_size: Whole = None
    forgetting: Real = None
    bound: Real = None
    t: Annotated[
        Literal["uniform", "normal"] | None, tyro.conf.arg(metavar="{uniform,normal}", help_behavior_hint="")
    ] = None
    optimizer: Text = None
    start: Literal["midpoint", "original"] = "midpoint"
    original: _Run = None
    references: _Runs = ()
    metrics: Texts = ()
    points: int = 31
    tolerance_retain: float = 0.1
    tolerance_forget: float = 0.1
    out: Folder = None
    threads: Whole = None
    progress: Flag = True
    debug: Flag = False

    def __call__(self) -> int:
        """Connect the models; write the figures, the picture and the path."""
        connectivity, out = gunlearn.connectivity, self.out or Path("runs") / "connect"
        curve = {name: getattr(self, name) for name in _CURVE}
        with gunlearn.bench.grid.threads(self.threads):
            data, request, blank = self._problem()
            partition = request.resolve(data)
            first, second, *references = (
                self._load(folder, blank, partition) for folder in (self.first, self.second, *self.references)
            )
            found = connectivity.connect(
                first.model,
                second.model,
                data,
                partition,
                self.task,
                align=self.align,
                child=self.child,
                path=self.path,
                start=self.start,
                original=None if self.original is None else self._load(self.original, blank, partition).model,
                references=[one.model for one in references],
                metrics=self.metrics,
                points=self.points,
                tolerance_retain=self.tolerance_retain,
                tolerance_forget=self.tolerance_forget,
                seed=self.seed,
                progress=self.progress,
                **{name: value for name, value in curve.items() if value is not None},
            )
        found.evaluation.save(out / "path.json")
        picture = found.plot(out / "path.png")
        print(printable(found.evaluation.table(every=max(1, (self.points - 1) // 10))))
        print(printable(found.evaluation.integrals()))
        for name, said in found.evaluation.notes.items():
            print(printable(f"{name}: {said}"))
        print(printable(f"picture: {picture}"))
        try:
            print(printable(f"path: {connectivity.save_path(found.path, out / 'path')}"))
        except UnsupportedModelError as error:
            gunlearn.connectivity.remove_path(out / "path")  # of other models, of an earlier run
            print(printable(f"path: not stored: {error}"))
        return 0

    def _problem(self) -> tuple[Any, Any, Any]:
        """Return the data, the request, and a model of the architecture with other weights."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        same = {f.name for f in fields(Run)} - {"task", "forget", "batch_size", "lr", "progress"}
        forget = () if self.forget is None else (self.forget,)
        run = Run(task=(self.task,), forget=forget, **{n: v for n, v in given.items() if n in same})  # type: ignore[arg-type]
        (config,) = run.configs()
        (cell,) = config.cells()
        data, request = cell.prepare(cell.load(config.root, config.recipe.backbone not in ("sage", "gin")))
        if self.model is not None:
            return data, request, gunlearn.bench.own_model.own_model(self.model)(data, self.seed)
        return data, request, config.recipe.model(data, self.seed, self.task)

    def _load(self, folder: Path, blank: Any, partition: Any) -> Result:
        """Return a saved result; refuse one that forgot something else."""
        if not (folder / "result.json").exists() and any((folder / name).is_file() for name in _OF_TEXTS):
            raise InvalidInputError(
                f"Expected runs on graphs or images that 'Result.save' wrote (got {folder}, a language model); "
                "from Python, gunlearn.connect(first, second) takes the results of gunlearn.llm.unlearn"
            )
        result = gunlearn.Result.load(folder, blank)
        if result.request_hash not in (None, partition.request_hash):
            raise InvalidInputError(
                f"Expected runs of the request that these options describe, {partition.describe()} (got another one in "
                f"{folder}, or another split, seed or owner's key)"
            )
        return result
