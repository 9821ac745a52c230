"""Choose the method by request, task, model and budget."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.methods import METHODS
from gunlearn.methods.base import Method, Outcome, Problem, check_interval
from gunlearn.nn.layers.linear_head import LinearHead
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.score_targets import MIN_HELD_OUT

CHEAP = 0.05  # share of retraining's time below which only free methods fit
LARGE = 0.3  # share that 'inpo' until unseen takes for a twentieth of the edges
MANY_EDGES = 1_000_000


@dataclass(frozen=True)
class Auto(Method):
    """Pick a method by fixed rules; `result.notes["chosen"]` names the method, `["why"]` is a sentence with the rule.

    The first rule that applies counts:

    1. a linear head trained for certificates (`fit_linear_head`): `cgu`, from a million edges on `scalegun`;
    2. `budget >= 1`, or at most half of the training items would stay: `retrain`, by `train` if given;
    3. `budget` below a twentieth: `utu`, which costs nothing;
    4. link prediction: `inpo` until each edge scores like unseen ones (edge requests, message passing layers,
       validation edges and a `budget` of at least 0.3), else `finetune`;
    5. other tasks: `finetune`, with the training's own `weight_decay`.

    Rules of thumb from the tables of `experiments/graph_methods`. The budget chooses; it does not limit the time.

    Args:
        budget: share of retraining's time that may be spent.
        weight_decay: the penalty of the model's training, for rule 5; without it fine-tuning drifts away.
        train: your training function `train(data, seed) -> model`, for rule 2.
    """

    budget: float = 0.33
    weight_decay: float = 0.0
    train: Callable[[Data, int], nn.Module] | None = None

    name = "auto"
    summary = "pick one of the others by request, task, model and budget"
    needs = "retained data"
    cost = "that of the chosen method"
    state = "chosen"

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise InvalidInputError(f"Expected 'budget' > 0 (got {self.budget})")
        check_interval(self, ">= 0", "weight_decay")

    def choose(self, task: Task, partition: Any, model: nn.Module) -> tuple[str, dict[str, Any], str]:
        """Return the name of the method, its options, and the rule that picked it: the end of a sentence."""
        if isinstance(model, LinearHead) and float(model.alpha) > 0 and task.name == "node_classification":
            large = partition.data.edge_index.size(1) >= MANY_EDGES
            return "scalegun" if large else "cgu", {}, "the model is a linear head trained for certificates"
        retrain = {} if self.train is None else {"train": self.train}
        if self.budget >= 1:
            return "retrain", retrain, f"a budget of {self.budget:g} allows retraining"
        stays = share_that_stays(task, partition)
        if stays <= 0.5:
            return "retrain", retrain, f"only {stays:.0%} of the training items stay"
        if self.budget < CHEAP:
            return "utu", {}, f"the budget is below {CHEAP:g} of retraining"
        if task.name == "link_prediction":
            attaches = any(isinstance(module, MessagePassing) for module in model.modules())
            able = partition.forgets == ("edges",) and attaches and has_held_out(task, partition.data)
            if able and self.budget >= LARGE:
                return (
                    "inpo",
                    {"until": "unseen"},
                    "edges are forgotten under link prediction, with validation edges to compare with",
                )
            lacks = f"at least {MIN_HELD_OUT} validation edges, message passing layers and a request for edges"
            why = f"the budget is below {LARGE:g}" if able else f"'inpo' until unseen needs {lacks}"
            return "finetune", {"weight_decay": self.weight_decay}, f"the task is link prediction, and {why}"
        why = "a classification" if "classification" in task.name else f"'{task.name}'"
        return "finetune", {"weight_decay": self.weight_decay}, f"the task is {why}"

    def run(self, problem: Problem) -> Outcome:
        name, options, why = self.choose(problem.task, problem.partition, problem.model)
        method = METHODS[name](**options)
        method.supports(problem.task, problem.partition)
        outcome = method.run_with_fresh_state(problem)
        chosen = f"'auto' chose '{name}', because {why}."
        outcome.notes |= {"chosen": name, "options": {k: str(v) for k, v in options.items()}, "why": chosen}
        return outcome


def share_that_stays(task: Task, partition: Any) -> float:
    """Return the share of the training items that stay."""
    if task.name == "link_prediction":
        return partition.num_retain / (partition.num_retain + partition.forget_edge_index.size(1))
    before, after = (
        task.training_parts(data).sample(["retain"])["retain"].num_items
        for data in (partition.data, partition.retain_data)
    )
    return after / before


def has_held_out(task: Task, data: Data) -> bool:
    """Return whether the data has validation edges for `until="unseen"`."""
    try:
        task.check_target("unseen", data)
    except UnsupportedMethodError:
        return False
    return True
