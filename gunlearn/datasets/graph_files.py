"""Single files of a whole graph: GraphML, GML, GEXF, node-link JSON, or an edge list."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import networkx as nx
from torch_geometric.data import Data

from gunlearn.datasets.files import from_files, says_of_nodes
from gunlearn.datasets.networkx_graphs import from_networkx
from gunlearn.datasets.text_tables import TEXT_ENDINGS
from gunlearn.errors import DatasetNotFoundError, InvalidInputError

#: Endings of files of one graph.
GRAPH_ENDINGS = (".graphml", ".gml", ".gexf", ".json")
#: Who reads other files; some run code that a file brings, which must be the user's own decision.
_READERS = {
    ".pkl": "pandas.read_pickle, if you trust it,",
    ".pickle": "pandas.read_pickle, if you trust it,",
    ".gpickle": "pickle.load, if you trust it,",
    ".pt": "torch.load",
    ".parquet": "pandas.read_parquet",
    ".feather": "pandas.read_feather",
    ".xlsx": "pandas.read_excel",
    ".net": "networkx.read_pajek",
}


def from_graph_file(path: Path) -> Data:
    """Read one file of a graph by its ending; nodes, edges and attributes as `from_networkx` and `from_files` do.

    Nodes are called as the file's ids say; in GML and GEXF as their labels say, where each node has another one.

    Raises:
        DatasetNotFoundError: no such file.
        InvalidInputError: another ending, or content that is not of its format.

    Warns:
        UserWarning: attributes that are not read.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"Expected a folder or a file of a graph at {path.absolute()} (got no such file)")
    ending = path.suffix.lower()
    if path.name.lower().removesuffix(".gz").endswith(TEXT_ENDINGS):
        beside = sorted(file.name for file in path.parent.iterdir() if file != path and says_of_nodes(file))
        if beside:
            warnings.warn(
                f"{', '.join(beside)} beside {path} are not read; load the folder {path.parent} to read them",
                stacklevel=3,
            )
        return from_files(path)
    if ending not in GRAPH_ENDINGS:
        how = f"; read it with {_READERS[ending]} and load what you get" if ending in _READERS else ""
        raise InvalidInputError(
            f"Expected a graph in one of {', '.join((*GRAPH_ENDINGS, *TEXT_ENDINGS))}, or a folder (got {path}, which "
            f"is not read{how})"
        )
    if ending in (".graphml", ".gml") and (number := _number_of_graphs(path, ending)) > 1:
        raise InvalidInputError(f"Expected one graph in {path} (got {number}); write each to a file of its own")
    readers = {".graphml": nx.read_graphml, ".gml": _read_gml, ".gexf": _read_gexf, ".json": _read_node_link}
    try:
        graph = readers[ending](path)
    except InvalidInputError:
        raise
    except Exception as error:  # parsers of broken files raise nearly anything
        raise InvalidInputError(f"Expected {path} in {ending[1:]} (got {type(error).__name__}: {error})") from error
    return from_networkx(graph)


def _number_of_graphs(path: Path, ending: str) -> int:
    """Return how many graphs a file holds, nested ones included: networkx reads the first and drops the others."""
    text = re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8", errors="replace"), flags=re.DOTALL)
    return len(re.findall(r"<(?:\w+:)?graph[\s>]" if ending == ".graphml" else r"^\s*graph\s*\[", text, re.MULTILINE))


def _read_gml(path: Path) -> nx.Graph:
    graph = nx.read_gml(path, label="id")
    return _called(graph)


def _read_gexf(path: Path) -> nx.Graph:
    return _called(nx.read_gexf(path))


def _called(graph: nx.Graph) -> nx.Graph:
    """Return the graph with nodes called by their attribute `label`, where that is another text for each."""
    labels = {node: given.get("label") for node, given in graph.nodes(data=True)}
    if len({str(label) for label in labels.values()}) == len(labels) and None not in labels.values():
        for _, given in graph.nodes(data=True):
            del given["label"]
        return nx.relabel_nodes(graph, labels)
    return graph


def _read_node_link(path: Path) -> nx.Graph:
    found: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    lists = [name for name in ("links", "edges") if isinstance(found, dict) and isinstance(found.get(name), list)]
    if len(lists) != 1 or not isinstance(found.get("nodes"), list):
        got = sorted(found)[:8] if isinstance(found, dict) else type(found).__name__
        raise InvalidInputError(f"Expected one object with 'nodes' and 'links' (or 'edges') in {path} (got {got})")
    if not all(isinstance(entry, dict) for name in ("nodes", lists[0]) for entry in found[name]):
        raise InvalidInputError(f"Expected objects in 'nodes' and '{lists[0]}' of {path} (got entries of other types)")
    if not all("id" in node for node in found["nodes"]):
        raise InvalidInputError(f"Expected an 'id' of every node in {path} (got nodes without one)")
    known = {_hashable(node["id"]) for node in found["nodes"]}
    ends = [_hashable(link.get(end)) for link in found[lists[0]] for end in ("source", "target")]
    strange = sum(end not in known for end in ends)
    if strange or len(known) != len(found["nodes"]):
        raise InvalidInputError(
            f"Expected ends of '{lists[0]}' in {path} to be ids of 'nodes', which are distinct (got {strange} ends "
            f"that no node has, {len(found['nodes']) - len(known)} repeated ids)"
        )
    # By hand, since the names of node_link_graph's arguments changed twice in networkx 3.
    directed = found.get("directed", False)
    if not isinstance(directed, bool):
        raise InvalidInputError(f"Expected 'directed' in {path} to be true or false (got {directed!r})")
    # Repeated edges stay beside each other, as in tables, even where the file does not call itself a multigraph.
    graph = nx.MultiDiGraph() if directed else nx.MultiGraph()
    graph.add_nodes_from((_hashable(n["id"]), {k: v for k, v in n.items() if k != "id"}) for n in found["nodes"])
    graph.add_edges_from(
        (
            _hashable(e["source"]),
            _hashable(e["target"]),
            {k: v for k, v in e.items() if k not in ("source", "target", "key")},
        )
        for e in found[lists[0]]
    )
    return graph


def _hashable(node: Any) -> Any:
    return tuple(node) if isinstance(node, list) else node
