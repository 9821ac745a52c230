"""Dense gradients of embeddings: those that `sparse=True` asks for fit few optimisers and no second-order method."""

from torch import nn

_TABLES = (nn.Embedding, nn.EmbeddingBag)


def make_gradients_dense(model: nn.Module) -> None:
    """Switch `sparse` off in a model's embeddings: their gradients have the same values then."""
    for module in model.modules():
        if isinstance(module, _TABLES):
            module.sparse = False


def restore_sparse_gradients(model: nn.Module, like: nn.Module) -> None:
    """Switch `sparse` on in the embeddings of `model` where it is on in those of the same names in `like`."""
    own = dict(model.named_modules())
    for name, module in like.named_modules():
        table = own.get(name)
        if isinstance(module, _TABLES) and module.sparse and isinstance(table, _TABLES):
            table.sparse = True
