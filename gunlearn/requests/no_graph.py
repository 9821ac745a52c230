"""What to pass in place of something that is no graph."""

from typing import Any


def graph_instead(data: Any) -> str:
    """Return what to pass in place of a PyG data set, or of several graphs, as `; pass ...`; else an empty text."""
    # Classes are known by what they have, without importing PyG; a HeteroData has no `is_edge_attr`.
    if hasattr(data, "edge_types"):
        return "; gunlearn.nn.homogeneous(model, data) makes one graph of it"
    is_dataset = all(hasattr(type(data), name) for name in ("num_node_features", "__getitem__", "__len__"))
    if not (is_dataset or isinstance(data, list | tuple)) or not len(data):
        return ""
    if not hasattr(type(data[0]), "is_edge_attr"):
        return ""
    if len(data) == 1:
        return "; pass its graph, data[0]"
    if isinstance(data, tuple):
        return "; pass the graph that was trained on, data[0] of what RandomLinkSplit returns"
    whole = "torch_geometric.data.Batch.from_data_list(list(data))"
    return f"; pass one of its graphs, data[0], or where each graph is an item, {whole}"
