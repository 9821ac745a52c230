"""`gunlearn run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gunlearn.cli.console import say, show
from gunlearn.cli.fields import Flag, Folder, Names, Real, Whole, Wholes
from gunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from gunlearn.bench.config import GridConfig

_SMALL = ("digits", "karate", "lesmis")  # converge in a few hundred epochs


def epochs_of(dataset: str, epochs: int | None, task: str = "link_prediction") -> int:
    """Epochs of the base model, where the user names none."""
    if epochs is not None:
        return epochs
    return 300 if dataset.lower() in _SMALL else 2000 if task == "link_prediction" else 500


@dataclass(frozen=True)
class Run:
    """Compare unlearning methods on one data set, and write rows, a table and a report.

    A killed run goes on where it stopped when the same command is given again.

    Args:
        dataset: A name (see 'gunlearn datasets'), or a folder with edges.csv and features.npy.
        root: Folder of the raw files, laid out as PyG does; without it $GUNLEARN_DATA, else ./data.
        methods: Methods to compare: NAME runs every variant, NAME:VARIANT one (see 'gunlearn methods'). The original
            and the retrained model are always shown.
        task: What the model predicts.
        forget: What to forget: training edges, training nodes, or all features of training nodes.
        ratio: Share of them; 0.005 of the edges, 0.05 of the nodes where neither this nor --count is given.
        count: Number of them.
        region: Where edges lie: in or out of the two-hop neighbourhood of the test edges; any by default.
        by: Which come first: any, edges of most influence on the model, or those of high degree.
        protocol: A random split, or split and forget set of the official INPO code.
        seeds: One run each; 0 by default.
        seed: The same for one seed.
        out: Folder of the outputs; runs/DATASET by default.
        models: Folder of trained models, to share between runs; OUT/models by default.
        backbone: The model.
        epochs: Epochs of the base model and of retraining; 2000 for link prediction, 500 for node classification, on
            the embedded data sets 300.
        lr: Learning rate of the base model; 0.001 for link prediction, 0.01 for node classification.
        weight_decay: L2 penalty of the base model; 0 for link prediction, 0.0005 for node classification.
        hidden_channels: Size of its hidden layer.
        out_channels: Size of its embeddings (link prediction).
        num_layers: Number of its convolutions.
        method_arg: Option of a method, METHOD.KEY=VALUE, or KEY=VALUE for each method that has it. Can be repeated.
        device: Where to compute; auto takes CUDA where there is one.
        n_jobs: Processes; each takes one seed at a time. 1 by default, on a cluster as many as it has.
        backend: Who runs them: processes of this machine, or the workers of a Dask or Ray cluster that see the same
            folders.
        address: Of that cluster; without one, workers are started on this machine.
        threads: Threads of each process.
        progress: Show no bars and no lines of progress.
        debug: Show the traceback of an error.
    """

    dataset: str = "digits"
    root: Folder = None
    methods: Names = (
        "retrain",
        "utu",
        "gradient_ascent",
        "npo",
        "inpo",
    )
    task: Literal["link_prediction", "node_classification"] = "link_prediction"
    forget: Literal["edges", "nodes", "features"] = "edges"
    ratio: Real = None
    count: Whole = None
    region: Annotated[
        Literal["any", "in", "out"] | None, tyro.conf.arg(metavar="{any,in,out}", help_behavior_hint="")
    ] = None
    by: Literal["random", "influence", "degree"] = "random"
    protocol: Literal["random", "inpo"] = "random"
    seeds: Wholes = ()
    seed: Whole = None
    out: Folder = None
    models: Folder = None
    backbone: Literal["gcn", "sage", "gat", "gin", "sgc", "appnp", "gcnii"] = "gcn"
    epochs: Whole = None
    lr: Real = None
    weight_decay: Real = None
    hidden_channels: int = 128
    out_channels: int = 64
    num_layers: int = 2
    method_arg: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    n_jobs: Whole = None
    backend: Literal["loky", "dask", "ray"] = "loky"
    address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="")] = None
    threads: Whole = None
    progress: Flag = True
    debug: Flag = False

    def config(self) -> GridConfig:
        """What the options say, checked."""
        from gunlearn.bench.config import GridConfig
        from gunlearn.bench.models import Recipe

        if self.seeds and self.seed is not None:
            raise InvalidInputError("Expected either --seeds or --seed (got both)")
        links = self.task == "link_prediction"
        share = 0.005 if self.forget == "edges" else 0.05
        return GridConfig(
            task=self.task,
            forget=self.forget,
            dataset=self.dataset,
            methods=self.methods,
            root=self.root,
            protocol=self.protocol,
            ratio=share if self.ratio is None and self.count is None else self.ratio,
            count=self.count,
            region=self.region,
            by=self.by,
            seeds=self.seeds or (0 if self.seed is None else self.seed,),
            recipe=Recipe(
                epochs=epochs_of(self.dataset, self.epochs, self.task),
                lr=self.lr if self.lr is not None else 1e-3 if links else 1e-2,
                weight_decay=self.weight_decay if self.weight_decay is not None else 0.0 if links else 5e-4,
                hidden_channels=self.hidden_channels,
                out_channels=self.out_channels,
                num_layers=self.num_layers,
                backbone=self.backbone,
            ),
            method_args=self.method_arg,
            device=self.device,
            threads=self.threads,
            models=self.models,
        )

    @property
    def folder(self) -> Path:
        """Where the outputs go."""
        return self.out or Path("runs") / Path(self.dataset).resolve().name.lower()

    def __call__(self) -> int:
        """Run the grid; 1 if every method failed."""
        from gunlearn.bench.backends import cluster
        from gunlearn.bench.grid import run_grid
        from gunlearn.report.html import grid_report
        from gunlearn.report.table import rich_table

        try:
            config = self.config()
            with cluster(self.backend, self.address, self.n_jobs):
                rows = run_grid(config, self.folder, self.progress)
        except KeyboardInterrupt:
            from gunlearn.bench.grid import ROWS
            from gunlearn.bench.store import RowStore

            kept = len(RowStore(self.folder / ROWS).read())
            say(f"interrupted: {kept} rows are kept in {self.folder}; the same command goes on from there")
            return 130
        report = grid_report(rows, self.folder / "report.html")
        first = rows[0]
        kind = first["forget"]
        share = f"ratio {first['ratio']} of {kind}" if first["ratio"] is not None else f"{first['count']} {kind}"
        where = f", region {first['region']}" if kind == "edges" else ""
        show(rich_table(rows, f"{first['dataset']}, {first['task'].replace('_', ' ')}, {share} forgotten{where}"))
        print(f"report: {report}")
        asked = {name.partition(":")[0] for name in self.methods} - {"retrain"}
        tried = [row for row in rows if row["method"] in asked]
        return 1 if tried and all(row["error"] for row in tried) else 0
