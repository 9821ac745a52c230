"""What a task is: it says what a model predicts, item by item, and which items each part of a problem holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import Prediction

if TYPE_CHECKING:  # tasks without graphs load none of it
    from torch_geometric.data import Data

    from gunlearn.nn.kernels.subgraph import Subgraph
    from gunlearn.tasks.sampling import Draw


class Parts(ABC):
    """The items of each part ("forget", "retain", ...) of one problem, drawn anew at each step where they are random.

    Attributes:
        names: the parts that can be asked for, with what they hold.
        data: what the model reads (the message graph, for a graph task).
        joint: the forgotten items' part of the original graph is in `data` too, beside the retained graph.
    """

    names: ClassVar[dict[str, str]]
    data: Data
    joint: bool = False

    @abstractmethod
    def sample(self, names: Collection[str]) -> dict[str, Any]:
        """Items of the named parts for one step; randomness comes from torch's global generator."""

    def strata(self) -> Tensor:
        """Stratum of each retained item for `StratifiedSampler`, integers `[num_retained]`.

        Raises:
            UnsupportedMethodError: the retained items of this task can only be read all at once.
        """
        raise UnsupportedMethodError(
            f"Expected a task that reads retained items in batches (got {type(self).__name__} without 'strata')"
        )

    def limit(self, draw: Draw) -> None:
        """From now on each step reads the retained items that `draw` names. Offered wherever `strata` is."""
        self.strata()


class Task(ABC):
    """Turns a model's outputs into a `Prediction` per item.

    A graph model computes all its outputs in one pass (`encode`) from which the items of several parts are read
    (`decode`); where items are independent (images, texts), `encode` does nothing and `decode` runs the model.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    requests: ClassVar[tuple[str, ...]] = ()  # kinds of request that name items of this task, empty for any

    def encode(self, model: nn.Module, data: Data) -> Any:
        """One pass over `data`, shared by every part; `None` where there is nothing to share."""
        return None

    @abstractmethod
    def decode(self, model: nn.Module, outputs: Any, items: Any) -> Prediction:
        """Prediction for `items`, from what `encode` returned."""

    def seeds(self, items: Any) -> Tensor | None:
        """Nodes whose rows of `encode`'s output `decode` reads, with repetitions; `None` if it reads anything else.

        Where this names nodes, the output may come from a part of the graph, for items that `relabel` translated.
        """
        return None

    def relabel(self, items: Any, subgraph: Subgraph) -> Any:
        """The same items by the node ids of a part of the graph; needed where `seeds` names nodes."""
        raise NotImplementedError

    def reading(self, items: Any, index: Tensor, ends: Tensor, num_rows: int) -> Any:
        """Some of the items, reading other rows of a table of outputs; needed where `seeds` names nodes.

        Args:
            items: items of this task.
            index: which of them `[k]`.
            ends: the rows that they read, one line per end `[1 or 2, k]`.
            num_rows: rows of the table.
        """
        raise NotImplementedError

    def predict(self, model: nn.Module, data: Data, items: Any) -> Prediction:
        """`decode` after `encode`."""
        return self.decode(model, self.encode(model, data), items)

    @abstractmethod
    def parts(
        self,
        partition: Any,
        message_graph: str = "retain",
        model: nn.Module | None = None,
        names: Collection[str] | None = None,
    ) -> Parts:
        """Parts of an unlearning problem.

        Args:
            partition: what a request resolved to.
            message_graph: `"retain"` or `"full"`: the graph the model reads while unlearning. Forgotten nodes and
                features are not in the retained graph: their items are read beside it, on the original one.
            model: whose reach decides how much of the original graph that takes; `None` takes all of it.
            names: the parts that will be asked for; `None` for any. The original graph is read for `"forget"` alone.
        """

    @abstractmethod
    def training_parts(self, data: Data) -> Parts:
        """Parts for training a model on all of `data`; only `"retain"` and its kin can be asked for."""

    @abstractmethod
    def validation_items(self, data: Data) -> Any | None:
        """Held-out items to select a base model on, `None` where there are none; never test items."""
