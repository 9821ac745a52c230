"""`gunlearn run`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import gunlearn
from gunlearn.cli.fields import (
    Flag,
    Folder,
    Pairs,
    Real,
    Reals,
    Text,
    Texts,
    Variants,
    Whole,
    Wholes,
    command_line,
    same_named,
)
from gunlearn.core.printable import printable
from gunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from gunlearn.bench.config import GridConfig
    from gunlearn.bench.models import Recipe

#: Stand for what outputs must not tell: who is in a file, where folders lie, how to log in to a cluster.
PLACEHOLDERS = {"forget_file": "FILE", "root": "DATA", "out": "OUT", "models": "MODELS", "address": "ADDRESS"}
_OF_GRAPHS = ("retrain", "utu", "gradient_ascent", "npo", "auto")
_OF_LINKS = ("retrain", "utu", "gradient_ascent", "npo", "inpo")  # inpo does edges of link prediction alone
_OF_IMAGES = ("retrain", "utu", "finetune", "graddiff", "npo:default", "scrub:default")
_SMALL = ("digits", "karate", "lesmis")  # converge in a few hundred epochs


_IMAGES = "image_classification"


def epochs_of(dataset: str, epochs: int | None, task: str = "link_prediction") -> int:
    """Return the user's number of epochs for the base model, or the default."""
    if epochs is not None:
        return epochs
    if task == _IMAGES:
        return 30 if dataset.lower() in _SMALL else 10
    return 300 if dataset.lower() in _SMALL else 2000 if task == "link_prediction" else 500


def methods_of(task: str, forget: str) -> tuple[str, ...]:
    """Return the methods that are compared by default: those that can do the problem."""
    if task == _IMAGES:
        return _OF_IMAGES
    return _OF_LINKS if (task, forget) == ("link_prediction", "edges") else _OF_GRAPHS


@dataclass(frozen=True)
class Run:
    """Compare unlearning methods on data sets and requests, and write rows, tables and a report.

    Every data set is combined with every task, every kind of request and every size. A killed run goes on where it
    stopped when the same command is given again.

    Args:
        dataset: A name (see 'gunlearn datasets'), or a folder or file of a graph (docs/data.md), or a folder of images;
            digits by default.
        datasets: Several of them.
        root: Folder of the raw files, laid out as PyG does; without it $GUNLEARN_DATA, else ./data.
        methods: Methods to compare: NAME runs every variant, NAME:VARIANT one (see 'gunlearn methods'). The original
            and the retrained model are always shown. By default utu, gradient_ascent, npo and auto; of edges for link
            prediction utu, gradient_ascent, npo and inpo; of images utu, finetune, graddiff, npo and scrub.
        task: What the model predicts, one or several.
        forget: What to forget, one or several: training edges, nodes, graphs or items (images), all features of
            training nodes, whole classes; or nodes with flipped labels or edges between classes, which are put into the
            training before. Edges by default, of images items.
        ratio: Share of them; 0.005 of the edges, 0.05 of the nodes where neither this nor --count is given.
        ratios: Several shares.
        count: Number of them.
        counts: Several numbers.
        forget_file: File of what to forget, in place of a draw: an id of the graph's own file per line, for edges two.
        labels: Classes to forget with --forget classes, by number or name, in place of a draw of --count of them.
        region: Where edges lie: in or out of the two-hop neighbourhood of the test edges; any by default.
        by: Which come first: any, edges whose removal moves the model's outputs most, or those of high degree.
        protocol: A random split, or split and forget set of the official INPO code, or the data's own split of nodes
            (of several the one that has the seed's number).
        seed: Of split, forget set, models and methods; 0 by default.
        seeds: Several seeds.
        out: Folder of the outputs; runs/DATASET by default.
        models: Folder of trained models, to share between runs; OUT/models by default.
        backbone: The model; gcn by default, of images cnn.
        epochs: Epochs of the base model and of retraining; 2000 for link prediction, 500 for node classification, on
            the embedded data sets 300; of images 10, on the embedded ones 30.
        lr: Learning rate of the base model; 0.001 for link prediction and images, 0.01 for node classification.
        weight_decay: L2 penalty of the base model; 0 for link prediction and images, 0.0005 for node classification.
        hidden_channels: Size of its hidden layer, 128 by default; of images the widest convolution, 64.
        out_channels: Size of its embeddings (link prediction).
        num_layers: Number of its convolutions; 2 by default, 3 of images.
        batch_size: Images per step, of the base model and of methods that have none of their own; 64 by default.
        method_arg: Option of a method, METHOD.KEY=VALUE, or KEY=VALUE for each method that has it. Can be repeated.
        device: Where to compute; auto takes CUDA where there is one.
        n_jobs: Processes; each takes one problem and seed at a time. 1 by default, on a cluster as many as it has.
        backend: Who runs them: processes of this machine, or the workers of a Dask or Ray cluster that see the same
            folders.
        address: Of that cluster; without one, workers are started on this machine.
        threads: Threads of each process.
        progress: Show no bars and no lines of progress.
        debug: Show the traceback of an error.
    """

    dataset: Text = None
    datasets: Texts = ()
    root: Folder = None
    methods: Variants = ()
    task: tuple[
        Literal["link_prediction", "node_classification", "graph_classification", "image_classification"], ...
    ] = ("link_prediction",)
    forget: tuple[
        Literal["edges", "nodes", "features", "graphs", "items", "flipped_labels", "planted_edges", "classes"], ...
    ] = ()
    ratio: Real = None
    ratios: Reals = ()
    count: Whole = None
    counts: Wholes = ()
    forget_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    labels: Texts = ()
    region: Annotated[
        Literal["any", "in", "out"] | None, tyro.conf.arg(metavar="{any,in,out}", help_behavior_hint="")
    ] = None
    by: Literal["random", "influence", "degree"] = "random"
    protocol: Literal["random", "inpo", "public"] = "random"
    seed: Whole = None
    seeds: Wholes = ()
    out: Folder = None
    models: Folder = None
    backbone: Annotated[
        Literal["gcn", "sage", "gat", "gin", "sgc", "appnp", "gcnii", "cnn", "resnet"] | None,
        tyro.conf.arg(metavar="{gcn,sage,gat,gin,sgc,appnp,gcnii,cnn,resnet}", help_behavior_hint=""),
    ] = None
    epochs: Whole = None
    lr: Real = None
    weight_decay: Real = None
    hidden_channels: Whole = None
    out_channels: int = 64
    num_layers: Whole = None
    batch_size: Whole = None
    method_arg: Pairs = ()
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    n_jobs: Whole = None
    backend: Literal["loky", "dask", "ray"] = "loky"
    address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="")] = None
    threads: Whole = None
    progress: Flag = True
    debug: Flag = False

    def configs(self) -> list[GridConfig]:
        """Return the configurations that the options describe, one per problem."""
        ratios, counts, configs = self._given("ratio"), self._given("count"), []
        for dataset, task in product(self._datasets, self.task):
            for forget in self.forget or (("items",) if task == _IMAGES else ("edges",)):
                share = (0.005 if forget.endswith("edges") else 0.05,)
                settings = same_named(self, gunlearn.bench.GridConfig) | {
                    "dataset": dataset,
                    "task": task,
                    "forget": forget,
                    "methods": self.methods or methods_of(task, forget),
                    "ratio": ratios or (None if counts or self.forget_file or self.labels else share),
                    "count": counts or None,
                    "seeds": self._given("seed") or (0,),
                    "recipe": self._recipe(dataset, task),
                    "method_args": self.method_arg,
                    "labels": tuple(int(label) if label.isdecimal() else label for label in self.labels),
                }
                configs += gunlearn.bench.suite(**settings)
        return configs

    def _recipe(self, dataset: str, task: str) -> Recipe:
        """Return how the base model is trained: as asked, else as is usual for the task."""
        epochs, images = epochs_of(dataset, self.epochs, task), task == _IMAGES
        plain = images or task == "link_prediction"
        usual = {
            "lr": 1e-3 if plain else 1e-2,
            "weight_decay": 0.0 if plain else 5e-4,
            "backbone": "cnn" if images else "gcn",
            "hidden_channels": 64 if images else 128,
            "num_layers": 3 if images else 2,
            **({"batch_size": 64, "eval_every": max(1, epochs // 10)} if images else {}),
        }
        asked = same_named(self, gunlearn.bench.Recipe)
        return gunlearn.bench.Recipe(**{**usual, **{k: v for k, v in asked.items() if v is not None}, "epochs": epochs})

    def _given(self, name: str) -> tuple[Any, ...]:
        """Return the values of `--name` or `--names`, `()` where neither is given."""
        one, several = getattr(self, name), getattr(self, f"{name}s")
        if one is not None and several:
            raise InvalidInputError(f"Expected either --{name}s or --{name} (got both)")
        return several if one is None else (one,)

    @property
    def _datasets(self) -> tuple[str, ...]:
        return self._given("dataset") or ("digits",)

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / "-".join(Path(name).resolve().name.lower() for name in self._datasets)

    def __call__(self) -> int:
        """Run the grid; return 1 if a method failed in all its rows."""
        bench, console = gunlearn.bench, gunlearn.cli.console
        try:
            configs = self.configs()
            with bench.cluster(self.backend, self.address, self.n_jobs):
                rows = bench.run_grid(configs, self.folder, self.progress)
        except KeyboardInterrupt:
            kept = len(bench.RowStore(self.folder / bench.ROWS_FILE).read())
            console.say(f"interrupted: {kept} rows are kept in {self.folder}; the same command goes on from there")
            return 130
        command = command_line("run", self, PLACEHOLDERS, ("dataset", "datasets"))
        bench.atomic_write(self.folder / bench.COMMAND_FILE, f"{command}\n")
        report = gunlearn.report.grid_report(rows, self.folder / "report.html", command=command)
        console.print_rows(rows)
        print(printable(f"report: {report}"))
        failed: dict[str, bool] = {}
        for row in rows:
            failed[row["method"]] = failed.get(row["method"], True) and bool(row["error"])
        return int(any(failed.values()))
