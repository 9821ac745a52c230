"""The base of all tasks: what a model predicts, item by item, and which items each part of a problem holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor, nn

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import Prediction

if TYPE_CHECKING:  # tasks without graphs load none of it
    from torch_geometric.data import Data

    from gunlearn.nn.kernels.subgraph import Subgraph
    from gunlearn.tasks.sampling import BatchOptions, Draw, ShuffledBatches


#: Targets at which forgotten items are released, for tasks that have them.
STOP_TARGETS = ("separated", "unseen")


@dataclass(frozen=True)
class View:
    """The arguments of `Task.parts`: what to read of a problem."""

    partition: Any
    message_graph: str = "retain"
    model: nn.Module | None = None
    names: tuple[str, ...] | None = None

    def reads(self, name: str) -> bool:
        """Return whether a part will be read."""
        return self.names is None or name in self.names


class PartItems:
    """Items of one part, a base for dataclasses whose tensors have a row per item.

    Attributes:
        fixed: the items are the same at every step, so that a reference prediction of them can be kept.
    """

    fixed: bool

    @property
    def num_items(self) -> int:
        """Return the number of items."""
        return next(value.size(0) for value in vars(self).values() if isinstance(value, Tensor))

    def rows(self, index: Tensor | slice, **changes: Any) -> Any:
        """Return some of the items, with other fields changed."""
        rows = {name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(cast(Any, self), **{**rows, **changes})

    def take(self, index: Tensor) -> Any:
        """Return some of the items, `[k]`."""
        return self.rows(index, fixed=False)

    def share(self, rank: int, world: int) -> Any:
        """Return every `world`-th item, from `rank` on."""
        return self.rows(slice(rank, None, world))


class Parts(ABC):
    """The items of each part ("forget", "retain", ...) of one problem, drawn anew at each step where they are random.

    Attributes:
        names: the parts of this problem, each with a description.
        data: what the model reads (the message graph, for a graph task).
        joint: `data` also holds the forgotten items' part of the original graph, beside the retained graph.
        retained: what the model reads instead of `data` where no forgotten item is read; `None` for `data`.
        draws: by part, the function that says which items a step reads; `None` where items can only be read all at
            once.
    """

    names: ClassVar[dict[str, str]]
    data: Data
    joint: bool = False
    retained: Data | None = None
    draws: dict[str, Draw] | None = None

    @abstractmethod
    def sample(self, names: Collection[str]) -> dict[str, Any]:
        """Return items of the named parts for one step, drawn from torch's global generator where they are random."""

    def count(self, name: str) -> int:
        """Return the number of items of a part."""
        return self.sample([name])[name].num_items

    def strata(self) -> Tensor:
        """Return the stratum of each retained item for `StratifiedSampler`, integers `[num_retained]`.

        In a graph it is the distance to what is forgotten; elsewhere all items are one stratum. A task that can only
        read all retained items at once raises `UnsupportedMethodError`.
        """
        raise UnsupportedMethodError(
            f"Expected a task that reads retained items in batches (got {type(self).__name__} without 'strata')"
        )

    def limit(self, draw: Draw, part: str = "retain") -> None:
        """Read at each step only the items of a part that `draw` names.

        A task that can only read these items all at once raises `UnsupportedMethodError`.
        """
        if self.draws is None:
            raise UnsupportedMethodError(
                f"Expected a task that reads '{part}' items in batches (got {type(self).__name__} without 'limit')"
            )
        self.draws[part] = draw

    def drawn(self, part: str, items: Any) -> Any:
        """Return the items of a part that this step reads: all of them, unless they are limited."""
        if not self.draws or part not in self.draws:
            return items
        index, weight = self.draws[part]()
        taken = items.take(index.to(items.label.device))
        return taken if weight is None else replace(taken, weight=weight)


class Reader:
    """The base of what a model reads in one step; this one reads everything.

    Args:
        parts: of the problem; a reader may replace them.
        around: the context around training passes.

    Attributes:
        batches: whose `step` must be set before each step, if any.
        note: what steps read, for the result.
    """

    def __init__(self, parts: Parts, around: Any = None) -> None:
        self.around = nullcontext() if around is None else around
        self.parts, self.note = parts, "full"
        self.batches: ShuffledBatches | None = None

    def read(self, items: dict, needed: Collection[str] | None = None) -> tuple[Any, dict, Any]:
        """Return what the model must read for `items`, the items in its terms, and the part of the graph, if any.

        `needed` names the parts that this step's objective reads, of all sampled `items`; `None` for all.
        """
        parts = self.parts
        if parts.retained is not None and needed is not None and "forget" not in needed:
            return parts.retained, items, None
        return parts.data, items, None

    def surroundings(self, subgraph: Any) -> Any:
        """Return the context around a pass over `subgraph`."""
        return self.around


class Task(ABC):
    """Turns a model's outputs into a `Prediction` per item.

    A graph model computes all its outputs in one pass (`encode`) from which the items of several parts are read
    (`decode`); where items are independent (images, texts), `encode` does nothing and `decode` runs the model.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    requests: ClassVar[tuple[str, ...]] = ()  # kinds of request that name items of this task, empty for any

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

    def runner(self, method: Any) -> Any | None:
        """Return what runs a method instead of the package's own loop; `None` for the loop."""
        return None

    def forgotten_state(self, model: nn.Module, partition: Any, seed: int) -> Any | None:
        """Return new values for what a model keeps of single things that go (`put` sets them); `None` for none."""
        return None

    def remarks(self, model: nn.Module) -> dict[str, Any]:
        """Return remarks on how the model ran, for the result."""
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

    def check_trial(self, model: nn.Module, data: Any, outputs: Any) -> None:  # noqa: B027 - most tasks check nothing
        """Refuse a model for what the trial pass showed; `model` is a copy that may be called again."""

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

    @abstractmethod
    def validation_items(self, data: Data) -> Any | None:
        """Return held-out items to select a base model on, never test items; `None` where there are none."""
