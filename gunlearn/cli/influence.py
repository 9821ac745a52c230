"""`gunlearn influence`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import gunlearn
from gunlearn.cli.fields import Flag, Folder, Pairs, Real, Texts, Whole, same_named
from gunlearn.cli.grid_command import epochs_of
from gunlearn.core.printable import printable

if TYPE_CHECKING:
    from gunlearn.bench.influence_grid import InfluenceConfig

_Function = Annotated[str | None, tyro.conf.arg(metavar="PATH.py:FUNCTION", help_behavior_hint="")]


@dataclass(frozen=True)
class InfluenceCommand:
    """Compare estimators of influence with the truth, and write rows, a table and a report.

    Two questions are kept apart. Removal: the model stays, the graph changes. Training: the model would have been
    trained without the item. 'gunlearn estimators' says which estimator answers which.

    Args:
        dataset: A name (see 'gunlearn datasets'), or a folder or file of a graph (docs/data.md).
        root: Folder of the raw files, laid out as PyG does; without it $GUNLEARN_DATA, else ./data.
        estimators: What to compare (see 'gunlearn estimators'); without it all that answer the truth's question for
            these items and this target, and the controls random and degree.
        truth: What to compare them with: removal (exact), pbrf, retraining, lds, or an estimator's name.
        of: Influence of what.
        target: Influence on what: how far outputs move, or the loss of the validation items.
        task: What the model predicts.
        num_items: Study a random sample of so many items; all of them by default.
        truth_items: Compute the truth of so many of them only, while estimators score all.
        seed: Of the split, the base model, samples, estimators and bootstrap.
        out: Folder of the outputs; runs/DATASET-influence by default.
        models: Folder of trained models, to share with 'gunlearn run'; OUT/models by default.
        model: A function (data, seed) of your own that returns a trained model, in place of the GCN below.
        epochs: Epochs of the base model; 2000, on the embedded data sets 300; 500 for graph classification.
        lr: Learning rate of the base model; 0.001, for graph classification 0.01.
        weight_decay: L2 penalty of the base model.
        hidden_channels: Size of its hidden layer.
        out_channels: Size of its embeddings; with classification it has as many as there are classes.
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
    estimators: Texts = ()
    truth: str = "removal"
    of: Literal["edges", "nodes", "features"] = "edges"
    target: Literal["probabilities", "embeddings", "loss"] = "probabilities"
    task: Literal["link_prediction", "node_classification", "graph_classification"] = "link_prediction"
    num_items: Whole = None
    truth_items: Whole = None
    seed: int = 0
    out: Folder = None
    models: Folder = None
    model: _Function = None
    epochs: Whole = None
    lr: Real = None
    weight_decay: float = 0.0
    hidden_channels: int = 128
    out_channels: int = 64
    num_layers: int = 2
    estimator_arg: Pairs = ()
    truth_arg: Pairs = ()
    double: Flag = False
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: Whole = None
    progress: Flag = True
    debug: Flag = False

    def config(self) -> InfluenceConfig:
        graphs = self.task == "graph_classification"
        recipe = same_named(self, gunlearn.bench.Recipe) | {
            "epochs": epochs_of(self.dataset, self.epochs, self.task if graphs else "link_prediction"),
            "lr": self.lr if self.lr is not None else 1e-2 if graphs else 1e-3,
        }
        settings = same_named(self, gunlearn.bench.InfluenceConfig) | {
            "estimators": self.estimators or None,
            "recipe": gunlearn.bench.Recipe(**recipe),
            "estimator_args": self.estimator_arg,
            "truth_args": self.truth_arg,
        }
        return gunlearn.bench.InfluenceConfig(**settings)

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{Path(self.dataset).resolve().name.lower()}-influence"

    def __call__(self) -> int:
        """Run the study; return 1 if every estimator failed."""
        told, bars = _tell if self.progress else None, self.progress and sys.stderr.isatty()
        study = gunlearn.bench.run_influence(self.config(), self.folder, told, bars)
        report = gunlearn.report.influence_report(study, self.folder / "influence.html")
        gunlearn.cli.console.print_study(study)
        print(printable(f"report: {report}"))
        return 1 if all(row["error"] for row in study.rows) else 0


def _tell(row: dict[str, Any]) -> None:
    correlation = "not defined" if row["spearman"] is None else f"{row['spearman']:.3f}"
    said = row["error"] or f"Spearman {correlation}, {row['seconds']:.2g} s"
    gunlearn.cli.console.say(f"{row['estimator']}: {said}")
