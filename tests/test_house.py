"""The order of the rooms. Exceptions stand in house.json, which only shrinks (`python -m tests.house`)."""

from __future__ import annotations

import ast
import json

import pytest

from tests import house

TABLE = json.loads(house.TABLE.read_text())


@pytest.mark.parametrize("what", house.CHECKS)
def test_nothing_is_added_to_the_exceptions(what: str) -> None:
    found, allowed = set(house.CHECKS[what]()), set(TABLE[what])
    assert not found - allowed, f"{what}: {sorted(found - allowed)}"
    assert not allowed - found, f"no longer needed, run `python -m tests.house`: {sorted(allowed - found)}"


def test_few_imports_inside_functions() -> None:
    found = house.in_functions()
    assert len(found) <= house.MAX_FUNCTION_IMPORTS, "\n".join(found)


def test_every_room_has_its_place() -> None:
    rooms = {house.room(name) for name in house.modules()} - {"gunlearn"}
    assert rooms <= set(house.ROOMS), sorted(rooms - set(house.ROOMS))


def test_violations_are_found(monkeypatch: pytest.MonkeyPatch) -> None:  # control
    sources = {
        "gunlearn": "",
        "gunlearn.losses": "def f():\n    from gunlearn.nn import g\n\ng = 1",
        "gunlearn.nn": "if TYPE_CHECKING:\n    from gunlearn.tasks import Task\nimport gunlearn.errors\ng = 1",
        "gunlearn.errors": "class g: ...",
        "gunlearn.tasks": "",
        "gunlearn.tasks.base": "try:\n    from gunlearn.tasks.graph import f\nexcept E:\n    f = 1\nh = 1",
        "gunlearn.tasks.graph": "def h():\n    from gunlearn.tasks import base\nimport torch_geometric.nn",
    }
    trees = {name: ast.parse(source) for name, source in sources.items()}
    monkeypatch.setattr(house, "modules", lambda: trees)
    found = [i for name, tree in trees.items() for i in house._imports(name, tree.body, "module")]
    monkeypatch.setattr(house, "imports", lambda: found)
    assert house.upward() == ["gunlearn.losses -> gunlearn.nn", "gunlearn.nn -> gunlearn.tasks"]
    assert house.circular() == ["gunlearn.tasks.base", "gunlearn.tasks.graph"]
    assert house.foreign() == ["gunlearn.tasks.base: torch_geometric"]
    assert house.in_functions() == ["gunlearn.losses:2 gunlearn.nn", "gunlearn.tasks.graph:2 gunlearn.tasks.base"]
    twice = {"g": ("errors", "losses", "nn"), "h": ("tasks.base", "tasks.graph")}
    assert house.names_twice() == [f"{name}: gunlearn.{module}" for name in twice for module in twice[name]]
