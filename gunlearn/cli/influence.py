"""`gunlearn influence`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from gunlearn.cli.console import say, show
from gunlearn.cli.fields import Flag, Folder, Whole

if TYPE_CHECKING:
    from gunlearn.bench.influence_grid import InfluenceConfig

_Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")]
_KeyValue = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]
_Function = Annotated[str | None, tyro.conf.arg(metavar="PATH.py:FUNCTION", help_behavior_hint="")]


@dataclass(frozen=True)
class Influence:
    """Hold estimators of influence against the truth, and write rows, a table and a report.

    Two questions are kept apart. Removal: the model stays, the graph changes. Training: the model would have been
    trained without the item. See 'gunlearn estimators' for who answers which.

    Args:
        dataset: A name (see 'gunlearn datasets'), or a folder with edges.csv and features.npy.
        root: Folder of the raw files, laid out as PyG does; without it $GUNLEARN_DATA, else ./data.
        estimators: What to compare (see 'gunlearn estimators'); without it all that answer the truth's question for
            these items and this target, and the controls random and degree.
        truth: What to hold them against: removal (exact), pbrf, retraining, lds, or an estimator's name.
        of: Influence of what.
        target: Influence on what: how far outputs move, or the loss of the validation items.
        task: What the model predicts.
        num_items: Study a random sample of so many items; all of them by default.
        truth_items: Compute the truth of so many of them only, while estimators score all.
        seed: Of the split, the base model, samples, estimators and bootstrap.
        out: Folder of the outputs; runs/DATASET-influence by default.
        models: Folder of trained models, to share with 'gunlearn run'; OUT/models by default.
        model: A function (data, seed) of your own that returns a trained model, in place of the GCN below.
        epochs: Epochs of the base model; 2000, on the embedded data sets 300.
        lr: Learning rate of the base model.
        weight_decay: L2 penalty of the base model.
        hidden_channels: Size of its hidden layer.
        out_channels: Size of its embeddings; with node classification it has as many as there are classes.
        num_layers: Number of its convolutions.
        estimator_arg: Option of an estimator, ESTIMATOR.KEY=VALUE, or KEY=VALUE for each that has it. Can be repeated.
        truth_arg: Option of the truth. Can be repeated.
        double: Compute in double precision, once the model is trained.
        device: Where to compute; auto takes CUDA where there is one.
        threads: Threads to compute with.
        progress: Show no bars and no lines of progress.
        debug: Show the traceback of an error.
    """

    dataset: str = "digits"
    root: Folder = None
    estimators: _Names = ()
    truth: str = "removal"
    of: Literal["edges", "nodes", "features"] = "edges"
    target: Literal["probabilities", "embeddings", "loss"] = "probabilities"
    task: Literal["link_prediction", "node_classification"] = "link_prediction"
    num_items: Whole = None
    truth_items: Whole = None
    seed: int = 0
    out: Folder = None
    models: Folder = None
    model: _Function = None
    epochs: Whole = None
    lr: float = 1e-3
    weight_decay: float = 0.0
    hidden_channels: int = 128
    out_channels: int = 64
    num_layers: int = 2
    estimator_arg: _KeyValue = ()
    truth_arg: _KeyValue = ()
    double: Flag = False
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: Whole = None
    progress: Flag = True
    debug: Flag = False

    def config(self) -> InfluenceConfig:
        """What the options say, checked."""
        from gunlearn.bench.influence_grid import InfluenceConfig
        from gunlearn.bench.models import Recipe
        from gunlearn.cli.run import epochs_of

        return InfluenceConfig(
            dataset=self.dataset,
            estimators=self.estimators or None,
            root=self.root,
            task=self.task,
            of=self.of,
            target=self.target,
            truth=self.truth,
            num_items=self.num_items,
            truth_items=self.truth_items,
            seed=self.seed,
            recipe=Recipe(
                epochs=epochs_of(self.dataset, self.epochs),
                lr=self.lr,
                weight_decay=self.weight_decay,
                hidden_channels=self.hidden_channels,
                out_channels=self.out_channels,
                num_layers=self.num_layers,
            ),
            model=self.model,
            estimator_args=self.estimator_arg,
            truth_args=self.truth_arg,
            double=self.double,
            device=self.device,
            threads=self.threads,
            models=self.models,
        )

    @property
    def folder(self) -> Path:
        """Where the outputs go."""
        return self.out or Path("runs") / f"{Path(self.dataset).resolve().name.lower()}-influence"

    def __call__(self) -> int:
        """Run the study; 1 if every estimator failed."""
        import sys

        from gunlearn.bench.influence_grid import run_influence
        from gunlearn.report.influence_table import influence_rich_table, study_title

        report = _tell if self.progress else None
        study = run_influence(self.config(), self.folder, report, bars=self.progress and sys.stderr.isatty())
        show(influence_rich_table(study.rows, study_title(study)))
        print(f"report: {self.folder / 'influence.html'}")
        return 1 if all(row["error"] for row in study.rows) else 0


def _tell(row: dict[str, Any]) -> None:
    if row["error"]:
        said = row["error"]
    else:
        correlation = "not defined" if row["spearman"] is None else f"{row['spearman']:.3f}"
        said = f"Spearman {correlation}, {row['seconds']:.2g} s"
    say(f"{row['estimator']}: {said}")
