"""What rows say of their problem, in words: its title, what was forgotten, how models were trained and compared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gunlearn.report.summary import Row

#: What requests of each kind forget: one, several.
_THINGS = {
    "edges": ("edge", "edges"),
    "nodes": ("node", "nodes"),
    "features": ("node's features", "nodes' features"),
    "graphs": ("graph", "graphs"),
    "flipped_labels": ("node with a flipped label", "nodes with flipped labels"),
    "planted_edges": ("planted edge", "planted edges"),
    "classes": ("node of a class that goes as a whole", "nodes of classes that go as a whole"),
    "items": ("item", "items"),
    "image_classes": ("image of a class that goes as a whole", "images of classes that go as a whole"),
}
_ITEMS = {
    "edges": "forgotten edges",
    "planted_edges": "planted edges",
    "features": "nodes whose features were forgotten",
    "graphs": "forgotten graphs",
    "items": "forgotten items",
    "image_classes": "forgotten images",
}
_ORDER = {"degree": "those of the highest degree first", "influence": "those first that move the model's outputs most"}


def problem_title(row: Mapping[str, Any]) -> str:
    """Return data set, task, request and settings other than the default of a row, in words."""
    kind, ratio = row.get("forget", "edges"), row.get("ratio")
    share = f"{row.get('count')} {kind}" if ratio is None else f"ratio {ratio} of {kind}"
    if row.get("labels"):
        share = f"{kind} {_listed(row['labels'])}"
    parts = [str(row.get("dataset")), row.get("task", "link_prediction").replace("_", " "), f"{share} forgotten"]
    if kind == "edges":
        parts.append(f"region {row.get('region')}")
    others = (("backbone", "gcn"), ("protocol", "random"), ("by", "random"))
    parts += [f"{name} {row[name]}" for name, default in others if row.get(name, default) != default]
    return ", ".join(parts)


def forgotten_items(row: Mapping[str, Any]) -> str:
    """Return what the figures of forgetting are measured on, in the words of the request: nodes, edges, graphs."""
    kind, links = _kind(row), row.get("task") == "link_prediction"
    nodes = kind not in ("edges", "planted_edges", "items", "graphs")
    if links and nodes:
        return f"edges of the {_ITEMS.get(kind, 'forgotten nodes')}"
    if not links and kind in ("edges", "planted_edges"):
        return f"end points of the {_ITEMS[kind]}"
    if " and " in kind:
        return "forgotten items"
    return _ITEMS.get(kind, "forgotten nodes")


def in_words_of(text: str, items: str) -> str:
    """Return a text on forgotten items or edges in the words of the request, see `forgotten_items`."""
    return text.replace("forgotten items", items).replace("forgotten edges", items)


def protocol(rows: Sequence[Row]) -> list[str]:
    """Return sentences: what was forgotten of what, how the models were trained, what they are compared with."""
    first, recipe = rows[0], rows[0].get("recipe") or {}
    said = [_request(rows)]
    if recipe:
        said.append(
            f"The model, a {recipe.get('num_layers')}-layer {str(first.get('backbone')).upper()}, was trained for "
            f"{recipe.get('epochs')} epochs (rate {recipe.get('lr')}, weight decay {recipe.get('weight_decay')})."
        )
    seeds = _listed(row.get("seed") for row in rows if row.get("method") not in ("original", "retrain"))
    if seeds and first.get("dataset"):
        own = "a split, a request, a trained model and retrained ones of its own"
        said.append(f"Seeds {seeds}: each has {own}." if "," in seeds else f"One run, under seed {seeds}.")
    number = max((row.get("references") or 0 for row in rows), default=0)
    if number:
        each = "In each run distances" if "," in seeds else "Distances"
        models = f"{number} models that were" if number > 1 else "one model that was"
        how = " by the same recipe under other seeds" if recipe else ""
        said.append(f"{each} are to {models} trained anew{how}, without what was forgotten.")
    return [*said, _reading(first)] if first.get("dataset") or first.get("forget") not in (None, "items") else said


def _reading(row: Mapping[str, Any]) -> str:
    what = forgotten_items(row)
    if row.get("forget") in ("edges", "planted_edges", None):
        return "Models read the graph without these edges; the row 'original' is the model before, on the whole graph."
    return (
        f"Models read retained and test items on the data without what was forgotten, and the {what} on the original "
        "data; the row 'original' is the model before, on the original data."
    )


def _request(rows: Sequence[Row]) -> str:
    first = rows[0]
    kind, number = _kind(first), _listed(row.get("num_forget") for row in rows)
    one, several = _THINGS.get(kind, (kind, kind))
    what = f"{number} {one if number == '1' else several} forgotten"
    where = f" on {first['dataset']}" if first.get("dataset") else ""
    if first.get("num_nodes"):
        where += f" ({first['num_nodes']:,} nodes)"
    task = str(first.get("task") or "").replace("_", " ")
    parts = [f"{100 * first['ratio']:.3g} % of those that were trained on"] if first.get("ratio") is not None else []
    if kind == "edges" and first.get("region") in ("in", "out"):
        parts.append(f"{first['region']}side the two-hop neighbourhood of the test edges")
    parts += [_ORDER[first["by"]]] if first.get("by") in _ORDER else []
    parts += [f"protocol '{first['protocol']}'"] if first.get("protocol") not in (None, "random") else []
    return f"{task.capitalize()}{where}: {', '.join([what, *parts])}."


def _kind(row: Mapping[str, Any]) -> str:
    """Return the kind of what was forgotten; classes are of nodes, but of images under their task."""
    kind = row.get("forget") or "items"
    return "image_classes" if kind == "classes" and row.get("task") == "image_classification" else kind


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))
