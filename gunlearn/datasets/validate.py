"""The check that every graph must pass before anything is trained on it, for graphs with features."""

from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.tasks.graph.check_graph import check_graph


def validate(data: Data) -> Data:
    """Return `data` itself, checked to be a graph that the rest of the package can work on.

    Args:
        data: a graph that `check_graph` takes, as all entry points do, with floating point `x`
            `[num_nodes, num_features]`.

    Raises:
        InvalidTypeError: `data` is no `torch_geometric.data.Data`.
        InvalidInputError: wrong content; the message names the attribute, the rule and the value.
    """
    if not isinstance(data, Data):
        raise InvalidTypeError(f"Expected a torch_geometric.data.Data (got {type(data).__name__})")
    x = data.get("x")
    if not isinstance(x, Tensor):
        raise InvalidInputError(f"Expected data.x to be a tensor [num_nodes, num_features] (got {type(x).__name__})")
    if x.dim() != 2:
        raise InvalidInputError(f"Expected data.x of shape [num_nodes, num_features] (got {list(x.shape)})")
    if not x.is_floating_point():
        raise InvalidInputError(f"Expected data.x of a floating point dtype (got {x.dtype}); call data.x.float()")
    check_graph(data)
    return data
