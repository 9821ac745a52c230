"""`gunlearn run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gunlearn.cli.console import say, show
from gunlearn.cli.options import Flag, Folder, Names, Real, Whole, Wholes
from gunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from gunlearn.bench import GridConfig

_SMALL = ("digits", "karate", "lesmis")  # converge in a few hundred epochs


def epochs_of(dataset: str, epochs: int | None) -> int:
    """Epochs of the base model, where the user names none."""
    if epochs is not None:
        return epochs
    return 300 if dataset.lower() in _SMALL else 2000


@dataclass(frozen=True)
class Run:
    """Compare unlearning methods on one data set, and write rows, a table and a report.

    A killed run goes on where it stopped when the same command is given again.

    Args:
        dataset: A name (see 'gunlearn datasets'), or a folder with edges.csv and features.npy.
        root: Folder of the raw files, laid out as PyG does; without it $GUNLEARN_DATA, else ./data.
        methods: Methods to compare: NAME runs every variant, NAME:VARIANT one (see 'gunlearn methods'). The original
            and the retrained model are always shown.
        forget: What to forget.
        ratio: Share of the training edges to forget; 0.005 where neither this nor --count is given.
        count: Number of edges to forget.
        region: Where they lie: in or out of the two-hop neighbourhood of the test edges; any by default.
        by: Which come first: any, those of most influence on the model, or those between nodes of high degree.
        protocol: A random split, or split and forget set of the official INPO code.
        seeds: One run each; 0 by default.
        seed: The same for one seed.
        out: Folder of the outputs; runs/DATASET by default.
        models: Folder of trained models, to share between runs; OUT/models by default.
        epochs: Epochs of the base model and of retraining; 2000, on the embedded data sets 300.
        lr: Learning rate of the base model.
        weight_decay: L2 penalty of the base model.
        hidden_channels: Size of its hidden layer.
        out_channels: Size of its embeddings.
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
    forget: Literal["edges"] = "edges"
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
    epochs: Whole = None
    lr: float = 1e-3
    weight_decay: float = 0.0
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
        from gunlearn.bench import GridConfig, Recipe

        if self.seeds and self.seed is not None:
            raise InvalidInputError("Expected either --seeds or --seed (got both)")
        return GridConfig(
            dataset=self.dataset,
            methods=self.methods,
            root=self.root,
            protocol=self.protocol,
            ratio=0.005 if self.ratio is None and self.count is None else self.ratio,
            count=self.count,
            region=self.region,
            by=self.by,
            seeds=self.seeds or (0 if self.seed is None else self.seed,),
            recipe=Recipe(
                epochs=epochs_of(self.dataset, self.epochs),
                lr=self.lr,
                weight_decay=self.weight_decay,
                hidden_channels=self.hidden_channels,
                out_channels=self.out_channels,
                num_layers=self.num_layers,
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
        from gunlearn.bench import cluster, run_grid
        from gunlearn.report import rich_table

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
        first = rows[0]
        share = f"ratio {first['ratio']}" if first["ratio"] is not None else f"{first['count']} edges"
        show(rich_table(rows, f"{first['dataset']}, {share} forgotten, region {first['region']}"))
        print(f"report: {self.folder / 'report.html'}")
        tried = [row for row in rows if row["method"] not in ("original", "retrain")]
        return 1 if tried and all(row["error"] for row in tried) else 0
