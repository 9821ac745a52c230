"""The order of the rooms, read from the package's own source; exceptions may only become fewer."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "gunlearn"
#: Ground floor first: a room imports from rooms before it alone.
ROOMS = (
    "errors seed cost core losses requests nn tasks training curvature attribution methods metrics attacks "
    "connectivity records llm diffusion datasets bench report api testing cli __main__"
).split()
#: Serve every family, so they load neither PyG nor transformers, not even through what they import.
PLAIN = (
    "gunlearn.core",
    "gunlearn.losses",
    "gunlearn.training",
    "gunlearn.tasks.base",
    "gunlearn.attacks.base",
    "gunlearn.connectivity",
)
PLAIN += tuple(
    f"gunlearn.metrics.{name}"
    for name in (
        "base",
        "problem",
        "ranking",
        "divergence",
        "own_labels",
        "texts",
        "view",
        "standing",
        "alignment",
        "item_evaluators",
    )
)
#: Name what later rooms define, as strings that are loaded on use: the package, each room's `__init__` and these.
CATALOGUES = ("gunlearn.tasks.named",)
FOREIGN = ("torch_geometric", "transformers", "peft", "diffusers")
MAX_FUNCTION_IMPORTS = 12


#: A string from which the registry loads an object, "gunlearn.module:Name".
LOADED = re.compile(r"gunlearn(\.\w+)+:\w+")


class Import(NamedTuple):
    """One import of one module: `where` is "module", "function", "types" (under TYPE_CHECKING) or "string"."""

    module: str
    target: str
    where: str
    line: int


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def catalogues() -> set[str]:
    """Modules that may name by string what they do not import."""
    return {*CATALOGUES, *(name for name in modules() if any(m.startswith(f"{name}.") for m in modules()))}


@cache
def imports() -> list[Import]:
    """Every import of the package, each module named once per statement."""
    return [found for name, tree in modules().items() for found in _imports(name, tree)]


def _imports(module: str, tree: ast.Module) -> Iterator[Import]:
    places: dict[ast.AST, str] = {}
    for node in ast.walk(tree):  # parents before their children
        where = places.get(node, "module")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = "function"
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            where = "types"
        places |= dict.fromkeys(ast.iter_child_nodes(node), where)
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively"
            names = [alias.name for alias in node.names if not alias.name.startswith("__")]  # metadata loads nothing
            full = [f"{node.module}.{name}" for name in names]
            targets = [name if name in modules() else str(node.module) for name in full]
        elif isinstance(node, ast.Constant) and LOADED.fullmatch(str(node.value)) and module not in catalogues():
            targets, where = [str(node.value).partition(":")[0]], "string"
        yield from (Import(module, target, where, node.lineno) for target in dict.fromkeys(targets))


def room(module: str) -> str:
    """The room of a module: the second part of its name."""
    return module.split(".")[1] if "." in module else module


def is_ours(target: str) -> bool:
    """Whether a module is one of the package's."""
    return target.split(".")[0] == "gunlearn"


def upward() -> list[str]:
    """Imports from a later room."""
    order = {name: i for i, name in enumerate(ROOMS)}
    order["gunlearn"] = order["api"]  # the package hands out, on use, what rooms up to there define
    ours = [i for i in imports() if is_ours(i.target) and i.module != "gunlearn"]
    found = {f"{i.module} -> {i.target}" for i in ours if order[room(i.module)] < order[room(i.target)]}
    return sorted(found)


def circular() -> list[str]:
    """Modules that reach themselves by imports; those for type checkers do not count."""
    graph: dict[str, set[str]] = defaultdict(set)
    for i in imports():
        if is_ours(i.target) and i.where != "types":
            graph[i.module].add(i.target)
    return sorted(name for name in modules() if name in reached(graph, graph[name]))


def in_functions() -> list[str]:
    """Imports of our own modules inside functions, one per statement and module."""
    return sorted(f"{i.module}:{i.line} {i.target}" for i in imports() if i.where == "function" and is_ours(i.target))


def foreign() -> list[str]:
    """Modules of the plain rooms that load PyG or transformers, and which of them."""
    graph: dict[str, set[str]] = defaultdict(set)
    own: dict[str, set[str]] = defaultdict(set)
    for i in imports():
        if i.where == "module" and is_ours(i.target):
            parts = i.target.split(".")
            graph[i.module].update(".".join(parts[:n]) for n in range(1, len(parts) + 1))
        elif i.where != "types":
            own[i.module].add(i.target.split(".")[0])
    plain = [name for name in modules() if f"{name}.".startswith(tuple(f"{part}." for part in PLAIN))]
    found = {name: set().union(*(own[m] for m in {name, *reached(graph, graph[name])})) for name in plain}
    return sorted(f"{name}: {kind}" for name, kinds in found.items() for kind in kinds & set(FOREIGN))


def reached(graph: dict[str, set[str]], start: set[str]) -> set[str]:
    """What can be reached in a graph, `start` included."""
    seen: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def files_twice() -> list[str]:
    """Names of files in several folders."""
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        found[path.stem].append(path)
    return sorted(name for name, paths in found.items() if len(paths) > 1 and name not in ("__init__", "base"))


def names_twice() -> list[str]:
    """Public names that several modules define; a function and a class of one name are twins, and allowed."""
    kinds = {ast.FunctionDef: "function", ast.AsyncFunctionDef: "function", ast.ClassDef: "class"}
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for module, tree in modules().items():
        for node in tree.body:
            if type(node) in kinds:
                found[node.name][module] = kinds[type(node)]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            found[name.id][module] = "constant"
    return sorted(
        f"{name}: {module}"
        for name, where in found.items()
        for module in where
        if len(where) > 1 and not name.startswith("_") and sorted(where.values()) != ["class", "function"]
    )


#: What is still allowed; no entry may be added, and one that is no longer needed must go.
EXCEPTIONS = {
    upward: [],
    circular: [],
    foreign: [],
    files_twice: [],
    names_twice: [
        "unlearn: gunlearn.api",
        "unlearn: gunlearn.diffusion.pipeline_unlearning",  # each family's one call has the one verb
        "unlearn: gunlearn.llm.unlearning",
    ],
}


@pytest.mark.parametrize("check", EXCEPTIONS, ids=lambda check: check.__name__)
def test_no_exception_is_added_and_none_is_stale(check: Callable[[], list[str]]) -> None:
    found, allowed = set(check()), set(EXCEPTIONS[check])
    assert not found - allowed, f"{check.__doc__} {sorted(found - allowed)}"
    assert not allowed - found, f"no longer needed, take out of EXCEPTIONS: {sorted(allowed - found)}"


def test_few_imports_inside_functions() -> None:
    found = in_functions()
    assert len(found) <= MAX_FUNCTION_IMPORTS, "\n".join(found)


def test_every_room_has_its_place() -> None:
    rooms = {room(name) for name in modules()} - {"gunlearn"}
    assert rooms <= set(ROOMS), sorted(rooms - set(ROOMS))


def test_violations_are_found(monkeypatch: pytest.MonkeyPatch) -> None:  # control
    sources = {
        "gunlearn": "",
        "gunlearn.losses": "def f():\n    from gunlearn.nn import g\n\ng = 1",
        "gunlearn.nn": "if TYPE_CHECKING:\n    from gunlearn.tasks import Task\nimport gunlearn.errors\ng = 1",
        "gunlearn.errors": "class g: ...\nlater = {'g': 'gunlearn.nn:g'}",
        "gunlearn.tasks": "",
        "gunlearn.tasks.base": "try:\n    from gunlearn.tasks.graph import f\nexcept E:\n    f = 1\nh = 1",
        "gunlearn.tasks.graph": "def h():\n    from gunlearn.tasks import base\nimport torch_geometric.nn",
    }
    trees = {name: ast.parse(source) for name, source in sources.items()}
    monkeypatch.setattr(sys.modules[__name__], "modules", lambda: trees)
    found = [i for name, tree in trees.items() for i in _imports(name, tree)]
    monkeypatch.setattr(sys.modules[__name__], "imports", lambda: found)
    assert upward() == [
        "gunlearn.errors -> gunlearn.nn",
        "gunlearn.losses -> gunlearn.nn",
        "gunlearn.nn -> gunlearn.tasks",
    ]
    assert circular() == ["gunlearn.errors", "gunlearn.nn", "gunlearn.tasks.base", "gunlearn.tasks.graph"]
    assert foreign() == ["gunlearn.tasks.base: torch_geometric"]
    assert in_functions() == ["gunlearn.losses:2 gunlearn.nn", "gunlearn.tasks.graph:2 gunlearn.tasks.base"]
    twice = {"g": ("errors", "losses", "nn"), "h": ("tasks.base", "tasks.graph")}
    assert names_twice() == [f"{name}: gunlearn.{module}" for name in twice for module in twice[name]]
