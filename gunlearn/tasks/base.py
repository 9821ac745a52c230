"""The base of all tasks: what a model predicts, item by item."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import Prediction
from gunlearn.tasks.parts import PartItems, Parts, View
from gunlearn.tasks.reader import Reader

if TYPE_CHECKING:  # tasks without graphs load none of it
    from torch_geometric.data import Data

    from gunlearn.nn.kernels.subgraph import Subgraph
    from gunlearn.tasks.sampling import BatchOptions

__all__ = ["STOP_TARGETS", "PartItems", "Parts", "Reader", "Task", "View"]

#: Targets at which forgotten items are released, for tasks that have them.
STOP_TARGETS = ("separated", "unseen")


class Task(ABC):
    """Turns a model's outputs into a `Prediction` per item.

    A graph model computes all its outputs in one pass (`encode`) from which the items of several parts are read
    (`decode`); where items are independent (images, texts), `encode` does nothing and `decode` runs the model.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    requests: ClassVar[tuple[str, ...]] = ()  # kinds of request that name items of this task, empty for any
    measured_as: ClassVar[str] = ""  # the task whose figures it takes, for a task of another package
    fine_tuned: ClassVar[bool] = False  # whether its models are pretrained as a rule, and know by heart what they learn

    def encode(self, model: nn.Module, data: Data) -> Any:
        """Run one pass over `data`, shared by every part; return `None` where there is nothing to share."""
        return None

    #: One pass serves the items of all parts: reading them in batches saves no pass.
    shared_pass: ClassVar[bool] = False

    @abstractmethod
    def decode(self, model: nn.Module, outputs: Any, items: Any) -> Prediction:
        """Return the prediction for `items`, from what `encode` returned."""

    def seeds(self, items: Any) -> Tensor | None:
        """Return the nodes whose rows of `encode`'s output `decode` reads; `None` if it reads anything else.

        Where this names nodes, the output may come from a part of the graph, for items that `relabel` translated.
        """
        return None

    def relabel(self, items: Any, subgraph: Subgraph) -> Any:
        """Return the same items with the node ids of a part of the graph; needed where `seeds` names nodes."""
        raise NotImplementedError

    def at_rows(self, items: Any, index: Tensor, ends: Tensor, num_rows: int) -> Any:
        """Return the items `index` `[k]`, reading other rows of a table of outputs; needed where `seeds` names nodes.

        `ends` are the rows that they read, one line per end `[1 or 2, k]`, of `num_rows` in the table.
        """
        raise NotImplementedError

    def predict(self, model: nn.Module, data: Data, items: Any) -> Prediction:
        """Run `encode`, then `read`."""
        return self.read(model, self.encode(model, data), items)

    def reader(
        self, model: nn.Module, parts: Parts, names: tuple[str, ...], options: BatchOptions, around: Any
    ) -> Reader:
        """Return the object that chooses the model's input in each step: all of it, unless a task overrides this.

        `names` are the parts that the objective reads, `options` say how much a step reads, and `around` is the context
        around training passes (see `GradientMethod.surroundings`).

        Raises:
            UnsupportedMethodError: the options ask for what the task, the model or the context cannot do.
        """
        if options.subgraph == "always":
            raise UnsupportedMethodError(f"Expected a task on a graph for subgraph='always' (got '{self.name}')")
        if options.sampler != "k_hop":
            raise UnsupportedMethodError(
                f"Expected a task on a graph for sampler='{options.sampler}' (got '{self.name}')"
            )
        return Reader(parts, around)

    def read(self, model: nn.Module, outputs: Any, items: Any) -> Prediction:
        """Run `decode`, or `items.decode(task, model, outputs)` where the items have it."""
        own = getattr(items, "decode", None)
        return self.decode(model, outputs, items) if own is None else own(self, model, outputs)

    def parts(
        self,
        partition: Any,
        message_graph: str = "retain",
        model: nn.Module | None = None,
        names: Collection[str] | None = None,
    ) -> Parts:
        """Return the parts of an unlearning problem; subclasses implement `make_parts`.

        Args:
            partition: what a request resolved to.
            message_graph: `"retain"` or `"full"`: the graph the model reads while unlearning. Forgotten nodes and
                features are not in the retained graph: their items are read beside it, on the original one.
            model: its reach decides how much of the original graph that takes; `None` takes all of it.
            names: the parts that will be read; `None` for any. The original graph is read for `"forget"` alone.
        """
        return self.make_parts(View(partition, message_graph, model, None if names is None else tuple(names)))

    def check_target(self, until: str, data: Any) -> None:
        """Raise `UnsupportedMethodError` for a target that the task or its data do not have."""
        raise UnsupportedMethodError(f"Expected link prediction for 'until' (got '{self.name}')")

    def target(self, until: str, model: nn.Module, reference: nn.Module, partition: Any, narrow: bool) -> Any:
        """Return the target down to which forgotten items are pushed; see `check_target`.

        `until` is one of `STOP_TARGETS`, `model` unlearns, `reference` is the model before unlearning; `narrow` reads
        only a part of the graph, where that gives the same.
        """
        raise UnsupportedMethodError(f"Expected link prediction for 'until' (got '{self.name}')")

    def unseen(self, original: nn.Module, partition: Any) -> tuple[Parts, Tensor] | None:
        """Return the parts of a training that holds the forgotten items too, and logits of items like them.

        The logits `[num_forget, ...]` are those expected of a model that never saw them. `None`: the task cannot tell.
        """
        return None

    def adopt(self, model: nn.Module) -> nn.Module:
        """Prepare a private copy of a caller's model for other data, and return it."""
        return model

    def check_model(self, model: nn.Module) -> None:
        """Raise `UnsupportedModelError` for a model that the task cannot read."""
        return

    def check_data(self, data: Any) -> Any:
        """Return the data in the form that the task reads.

        Raises:
            InvalidTypeError: data of the wrong kind.
            InvalidInputError: values that are not finite.
        """
        return data

    def adapts(self, model: nn.Module) -> bool:
        """Return whether an adapter is trained instead of the model's own weights."""
        return hasattr(model, "peft_config")

    def adapter_scaling(self, model: nn.Module) -> Callable[[float], Any] | None:
        """Return what multiplies the change that a model's adapter makes, in place; `None` where nobody knows how.

        Raises `UnsupportedModelError` for an adapter that has no multiples.
        """
        return None

    def runner(self, method: Any) -> Any | None:
        """Return what runs a method instead of the package's own loop; `None` for the loop."""
        return None

    def forgotten_state(self, model: nn.Module, partition: Any, seed: int) -> Any | None:
        """Return new values for what a model keeps of single things that go (`put` sets them); `None` for none."""
        return None

    def remarks(self, model: nn.Module) -> dict[str, Any]:
        """Return remarks on how the model ran, for the result."""
        return {}

    def settle(self, model: nn.Module, partition: Any) -> dict[str, Any]:
        """Finish a model that a method returned, in place, and return notes on what was done: nothing, by default."""
        return {}

    def trial_items(self, data: Any) -> Any | None:
        """Return a few items that the trial pass predicts, see `gunlearn.tasks.trial`; `None` for none."""
        return None

    #: What models return, `"logits"` or `"probabilities"`, for tasks that take both.
    outputs: str = "logits"

    def outcomes(self, model: nn.Module) -> str:
        """Return what a model's logits are of: `"categorical"` or `"bernoulli"` outcomes; empty where nobody can tell.

        The trial pass refuses probabilities in place of such logits.
        """
        return ""

    #: A loss on retained items of more times that before is a collapse, short of a guess; `None` for no such number.
    tolerated: ClassVar[float | None] = None

    def guess(self, prediction: Prediction, items: Any) -> float | None:
        """Return the mean loss of a model that knows nothing of the items, in nats; `None` where nobody can tell."""
        logits, log_prob = prediction.logits, prediction.log_prob
        if logits is None or prediction.gaussian:
            return None
        return math.log(2 if logits.shape == log_prob.shape else max(logits.size(-1), 2))

    def check_trial(self, model: nn.Module, data: Any, outputs: Any) -> None:  # noqa: B027 - most tasks check nothing
        """Refuse a model for what the trial pass showed; `model` is a copy that may be called again."""

    def check_parts(self, model: nn.Module, partition: Any) -> None:  # noqa: B027 - most tasks have nothing to check
        """Refuse a model that holds something for each part of the data, and cannot be called on fewer parts."""

    def check_request(self, model: nn.Module, partition: Any, outputs: Any, anew: bool) -> str:
        """Warn of what stays of a request, or refuse it; return a sentence for the result's `why`, empty for none.

        Args:
            model: before unlearning; it does not change.
            partition: the resolved request.
            outputs: those of the trial pass on the retained data.
            anew: the method trains a new model, so that nothing is refused for what the given one keeps.
        """
        return ""

    def warn_of_derived(self, data: Any, edges: bool, features: bool) -> None:  # noqa: B027 - most have none
        """Warn of parts of the data that were computed from what is taken out: edges, or features and nodes."""

    def warn_of_arguments(self, model: nn.Module, data: Any, outputs: Any, passed: bool = True) -> str:
        """Warn of values that the data hold and a model is, or is not, called with, where only its owner knows which.

        `outputs` are those of the trial pass on `data`; without `passed` nothing is said of values that are passed.
        Returns a sentence for the result's `why`, empty for none.
        """
        return ""

    #: An item has one label (or one value), not one for each of its tokens.
    one_label: ClassVar[bool] = True

    #: The task says itself what a forgotten item is learned as, see `relabelled`.
    relabels: ClassVar[bool] = False

    def relabelled(self, parts: Parts, model: nn.Module) -> Parts | None:
        """Return parts whose forgotten items are to be learned as something else; `None` where labels are classes.

        `model` is the one that learns. Called once per run, which draws what that is.
        """
        return None

    def fitted(self, outputs: Any, data: Any) -> Task:
        """Return the task with what its likelihood takes from the model before unlearning (the scale of a regression).

        `outputs` are those of the trial pass on `data`, the retained data.
        """
        return self

    def for_training(self) -> Task:
        """Return the task without what `fitted` set: a model that is trained anew has no scale of its own yet."""
        return self

    def called(self, call: Callable[..., Any] | None = None, decode: Callable[..., Any] | None = None) -> Task:
        """Return the task with the caller's own way to call a model; see `GraphTask.called`.

        Raises:
            InvalidInputError: a task that has no such call.
        """
        if call is None and decode is None:
            return self
        given = "call" if call is not None else "decode"
        raise InvalidInputError(f"Expected '{given}' for a task on a graph alone (got task '{self.name}')")

    @abstractmethod
    def make_parts(self, view: View) -> Parts:
        """Return the parts that a view of the problem asks for; see `parts`."""

    @abstractmethod
    def training_parts(self, data: Data) -> Parts:
        """Return the parts for training a model on all of `data`: no `"forget"` part."""

    def training_items(self, data: Data) -> list[Tensor]:
        """Return what tells the training items from others: their ids, and labels; empty where nothing does."""
        return []

    @abstractmethod
    def validation_items(self, data: Data) -> Any | None:
        """Return held-out items to select a base model on, never test items; `None` where there are none."""

    def held_out_items(self, data: Data, part: str) -> Any | None:
        """Return the items of the `"val"` or `"test"` part of a split; `None` where the data or the task have none."""
        return self.validation_items(data) if part == "val" else None
