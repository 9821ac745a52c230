"""Modules and public names of release 0.1 that were renamed: the error of an import says the new name."""

import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from typing import Any

#: Old package, new package, modules; `old=new` for a renamed module.
_MOVES = """
gunlearn               gunlearn                         influence=attribution
gunlearn.bench         gunlearn.bench                   influence=influence_grid study_files=influence_grid
gunlearn.bench         gunlearn.core                    options
gunlearn.cli           gunlearn.cli                     options=fields run=grid_command
gunlearn.datasets      gunlearn.datasets                registry=catalogue
gunlearn.influence     gunlearn.attribution             base items=distinct_items targets
gunlearn.influence     gunlearn.attribution.removal     balls brute=exact calibrated exact first_order heuristics
gunlearn.influence     gunlearn.attribution.removal     layer_rules local nora
gunlearn.influence     gunlearn.attribution.study       agreement choice=setting measured=setting study truths
gunlearn.influence     gunlearn.attribution.training    datamodels gradients inverse_hessian item_losses pbrf
gunlearn.influence     gunlearn.attribution.training    retraining=retraining_influence
gunlearn.influence     gunlearn.curvature               curvature=products solvers training_loss
gunlearn.influence     gunlearn.tasks.graph             pair_features
gunlearn.llm           gunlearn.llm                     api=unlearning arguments=unlearning result=record
gunlearn.llm           gunlearn.llm                     evaluate=evaluate_language_models
gunlearn.llm           gunlearn.methods                 LLMMethod=Method METHODS
gunlearn.llm           gunlearn.llm.data                collate encoding pairing records retain_sets
gunlearn.llm           gunlearn.llm.data                selection=marking selectors targets=target_tokens tofu
gunlearn.llm           gunlearn.llm.metrics             figures=row_figures
gunlearn.llm           gunlearn.llm.model               adapters arithmetic bounded bounded_layer head
gunlearn.llm           gunlearn.llm.model               reference=frozen
gunlearn.llm           gunlearn.llm.privacy             dp=dp_training dp_card dp_rows dp_steps
gunlearn.llm           gunlearn.llm.recipes             bandit direct_tokens instructions=reveal methods obliviate plan
gunlearn.llm           gunlearn.llm.recipes             release reveal
gunlearn.llm           gunlearn.llm.training            adapter_fit causal_lm likelihoods
gunlearn.llm           gunlearn.llm.training            primal_dual=primal_dual_callback progress projection settings
gunlearn.llm           gunlearn.llm.training            trainer until
gunlearn.llm.metrics   gunlearn.llm.metrics             alignment=text_alignment tofu=tofu_metrics
gunlearn.llm.metrics   gunlearn.llm.metrics             Figures=ModelFigures evaluate=evaluate_language_models
gunlearn.llm.metrics   gunlearn.metrics                 memorization=texts
gunlearn.losses        gunlearn.core                    checks
gunlearn.losses        gunlearn.losses                  CEU=CrossEntropyUnlearning
gunlearn.losses        gunlearn.losses                  distillation=reference entropy=reference
gunlearn.losses        gunlearn.losses                  pairwise=preference refusal=vocabulary reweighted=likelihood
gunlearn.losses        gunlearn.losses                  simple_preference=preference
gunlearn.methods       gunlearn.curvature               importance=fisher
gunlearn.methods       gunlearn.methods                 build=build_method run=door
gunlearn.methods       gunlearn.methods.any_task        baselines imu npo=retained rewind scrub ssd teachers
gunlearn.methods       gunlearn.methods.graph           cognac damping=message_damping entities etr inpo megu
gunlearn.methods       gunlearn.methods.linear_head     accountant certified convex graph_editor head_training
gunlearn.methods       gunlearn.methods.linear_head     propagation push scalegun
gunlearn.methods       gunlearn.methods.operators       gnndelete inpo_s layer_losses
gunlearn.methods       gunlearn.methods.second_order    ceu gif idea=gif influence_update removal
gunlearn.methods       gunlearn.methods.shards          grapheraser partitioning
gunlearn.methods       gunlearn.nn.attach               deletion=operators
gunlearn.methods       gunlearn.tasks.graph             targets=score_targets
gunlearn.methods       gunlearn.training                batches=feeding callbacks checkpoint distributed=processes
gunlearn.methods       gunlearn.training                loop result training=from_scratch
gunlearn.metrics       gunlearn.metrics                 ClassProbabilities=ModelView EdgeProbabilities=ModelView
gunlearn.metrics       gunlearn.metrics                 classes=graph_evaluators link=graph_evaluators named=problem
gunlearn.nn            gunlearn.nn                      backbones=zoo
gunlearn.nn            gunlearn.nn.hetero               hetero_wrapper=wrapper typed
gunlearn.nn            gunlearn.nn.kernels              fast memo sparse subgraph
gunlearn.nn            gunlearn.nn.layers               influence_conv linear_head
gunlearn.report        gunlearn.report                  influence=influence_table
gunlearn.requests      gunlearn.core                    checks
gunlearn.requests      gunlearn.requests                graph=training_graph regions=draw removal=apply
gunlearn.tasks.graph   gunlearn.tasks                   GraphTask
gunlearn.tasks         gunlearn.tasks.graph             beside graph_classification link_prediction negatives
gunlearn.tasks         gunlearn.tasks.graph             node_classification random_nodes splits
gunlearn.tasks         gunlearn.tasks.items             classification=arrays
"""


def _moved() -> Iterator[tuple[str, str]]:
    for row in _MOVES.strip().splitlines():
        old_package, new_package, *modules = row.split()
        for old, _, new in (module.partition("=") for module in modules):
            yield f"{old_package}.{old}", f"{new_package}.{new or old}"


MOVED = dict(_moved())


class MovedFinder(MetaPathFinder):
    """Raise ModuleNotFoundError with the new name of a renamed module, or name of a package. It is asked last."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        if fullname in MOVED:
            # Without `name=`: `from package import old` would catch the error and say less.
            raise ModuleNotFoundError(f"'{fullname}' has moved: import '{MOVED[fullname]}' instead")


def install() -> None:
    """Add a `MovedFinder` to the finders of imports, once."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
