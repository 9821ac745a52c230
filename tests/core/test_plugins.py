"""Methods, figures and tasks of another package, which is built, installed into a folder and tested here."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gunlearn as gu
from gunlearn.cli import main
from gunlearn.core import plugins
from gunlearn.errors import InvalidInputError, PluginError, UnsupportedMethodError
from gunlearn.methods import METHODS
from gunlearn.metrics import FIGURES
from gunlearn.report.listing import listing
from gunlearn.tasks import TASKS
from gunlearn.testing import MethodCase, MethodContract, small_problem

SOURCE = '''
from dataclasses import dataclass

import gunlearn as gu
from gunlearn.losses import NLL
from gunlearn.methods import GradientMethod
from gunlearn.metrics import Figure


@dataclass(frozen=True)
class Gentle(GradientMethod):
    """Go on training on what stays, more or less."""

    epochs: int = 5
    gentleness: float = 1.0

    name = "gentle"
    summary = "go on training, gently"
    needs = "retained data"
    cost = "`epochs` passes"
    variants = {"default": {}, "soft": {"gentleness": 0.5}}

    @property
    def label(self):
        return "soft" if self.gentleness == 0.5 else "default"

    def objective(self):
        return self.gentleness * NLL(on="retain")


class Sureness(Figure):
    """Mean probability of the likeliest class of test items."""

    name, heading, tasks = "sureness", "sureness", ("node_classification", "image_classification")

    def compute(self, view):
        probability = view.probability("test")
        return None if probability is None else float(probability.amax(-1).mean())


class Rows(gu.ImageClassification):
    """Rows of a table."""

    name = "rows"
    summary = "which class has this row of a table?"
    measured_as = "image_classification"
'''
TESTS = """
import torch
from torch import nn

import gunlearn as gu
from gunlearn.tasks.items.tables import ItemTable
from gunlearn.testing import FigureContract, MethodCase, MethodContract, TaskCase, TaskContract


class TestGentle(MethodContract):
    case = MethodCase("gentle", "soft", {"epochs": 2}, task="image_classification", bad=({"gentleness": "x"},))


class TestSureness(FigureContract):
    figure, low, high = "sureness", 0.0, 1.0


def table():
    return ItemTable(x=torch.arange(160.0).view(40, 4).sin(), y=torch.arange(40) % 2)


class TestRows(TaskContract):
    case = TaskCase("rows", table, gu.ForgetItems(count=8), lambda: nn.Linear(4, 2))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Put a package of one module with a dist-info folder on the path, as installing it does; registries look anew."""

    def scan() -> None:
        plugins._told.clear()
        for registry in (METHODS, FIGURES, TASKS):
            registry.scan()

    def put(entries: str, source: str = SOURCE, name: str = "toy") -> Path:
        folder = tmp_path / name
        info = folder / f"{name}-0.1.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}_module.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(entries)
        monkeypatch.syspath_prepend(str(folder))
        scan()
        return folder

    yield put
    monkeypatch.undo()
    for name in ("toy_module", "other_module"):
        sys.modules.pop(name, None)
    scan()


ENTRIES = """[gunlearn.methods]
gentle = toy_module:Gentle
[gunlearn.figures]
sureness = toy_module:Sureness
[gunlearn.tasks]
rows = toy_module:Rows
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy package as its author has it: built by setuptools from a pyproject.toml, with tests of its own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    groups = ENTRIES.replace("[gunlearn", '[project.entry-points."gunlearn').replace("]", '"]')
    entries = "".join(
        f'{name} = "{value}"\n' if value else f"{name}\n"
        for name, _, value in (line.partition(" = ") for line in groups.splitlines())
    )
    head = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[project]\n'
    (source / "pyproject.toml").write_text(
        f'{head}name = "toy"\nversion = "0.1"\n{entries}[tool.setuptools]\npy-modules = ["toy_module"]\n'
    )
    (source / "toy_module.py").write_text(SOURCE)
    (source / "test_toy.py").write_text(TESTS)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True)
    (target / "test_toy.py").write_text(TESTS)
    return target


def test_an_installed_package_passes_the_contracts_by_one_import(built: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_toy.py"]
    path = f"{built}{os.pathsep}{Path(gu.__file__).parent.parent}"
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd=built)
    assert "15 passed" in ran.stdout, ran.stdout + ran.stderr


def test_listed_by_the_command_line(install: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    install(ENTRIES)
    for kind, row in (("methods", "| `gentle (toy 0.1)` | go on"), ("figures", "| `sureness (toy 0.1)` | sureness |")):
        main([kind, "--markdown"])
        assert row in capsys.readouterr().out


def test_the_contract_notices_a_method_that_breaks_it(install: Callable[..., Path]) -> None:  # control
    install(ENTRIES)

    class Theirs(MethodContract):
        case = MethodCase("gentle", options={"epochs": 2})

    cls = METHODS["gentle"]
    own = cls.run

    def run(self: Any, problem: Any) -> Any:
        out = own(self, problem)
        next(out.model.parameters()).data.add_(1.0)  # frozen or not
        return out

    Theirs().test_no_epochs_no_change()
    cls.run = run
    for test in (
        Theirs().test_no_epochs_no_change,
        Theirs().test_the_callers_model_data_and_random_state_are_untouched,
    ):
        with pytest.raises(AssertionError):
            test()
    Theirs().test_the_seed_alone_decides()


def test_by_name_in_every_place(install: Callable[..., Path]) -> None:
    install(ENTRIES)
    assert "toy_module" not in sys.modules  # names alone were read
    problem = small_problem("image_classification")
    result = gu.unlearn(problem.model(), problem.data(), problem.request, "gentle:soft", "rows", epochs=2)
    assert (result.method, result.mode, result.task.name) == ("gentle", "soft", "rows")
    found = gu.evaluate(result, references=[problem.model(1), problem.model(2)])
    assert 0 < found["sureness"] <= 1
    assert "sureness" in str(found)
    assert found["test_acc"] is not None  # a figure of ours for the task that `measured_as` names
    with pytest.raises(InvalidInputError, match="did you mean 'gentle'"):
        gu.unlearn(problem.model(), problem.data(), problem.request, "gentel", "rows")


def test_an_unmeasured_task_says_what_to_set(install: Callable[..., Path]) -> None:
    install(ENTRIES, SOURCE.replace('measured_as = "image_classification"', 'measured_as = ""'))
    problem = small_problem("image_classification")
    result = gu.unlearn(problem.model(), problem.data(), problem.request, "finetune", "rows", epochs=1)
    with pytest.raises(UnsupportedMethodError, match=r"set 'Rows.measured_as' to one of them"):
        gu.evaluate(result)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError"),
        ("Gentle = Sureness = Rows = dict", "subclass of Method"),
        (SOURCE.replace('name = "gentle"', 'name = "rough"'), "got 'rough'"),
        (SOURCE.replace('summary = "go on training, gently"', 'summary = ""'), "with a 'summary'"),
        (SOURCE.replace('needs = "retained data"', 'needs = "luck"'), "got luck"),
    ],
    ids=["import", "raises", "class", "name", "summary", "needs"],
)
def test_a_broken_package_breaks_nothing_else(install: Callable[..., Path], source: str, words: str) -> None:
    install(ENTRIES, source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = small_problem("node_classification")  # ours are found as before, without a word
        result = gu.unlearn(problem.model(), problem.data(), problem.request, "finetune", problem.task, epochs=1)
    with pytest.raises(PluginError, match=f"method 'gentle' of the package toy 0.1 .*{words}.*pip uninstall toy"):
        gu.unlearn(problem.model(), problem.data(), problem.request, "gentle", problem.task)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert "gentle" not in list(METHODS)
        assert gu.evaluate(result)["test_acc"] is not None
    assert any("package toy 0.1" in str(one.message) and "pip uninstall toy" in str(one.message) for one in told)
    (row,) = [row for row in listing("method")[1] if row[0] == "gentle"]
    assert "toy 0.1" in row[1]


def test_a_figure_that_fails_is_left_out_with_a_warning(install: Callable[..., Path]) -> None:
    install(ENTRIES, SOURCE.replace('probability = view.probability("test")', 'raise OSError("no file")'))
    problem = small_problem("node_classification")
    result = gu.unlearn(problem.model(), problem.data(), problem.request, "finetune", problem.task, epochs=1)
    with pytest.warns(UserWarning, match="figure 'sureness' of the package toy 0.1 is left out: OSError: no file"):
        assert gu.evaluate(result)["sureness"] is None


def test_a_taken_name_stays_ours_and_the_package_is_named(install: Callable[..., Path]) -> None:
    install("[gunlearn.methods]\nnpo = toy_module:Gentle\nga = toy_module:Gentle\na:b = toy_module:Gentle\n")
    with pytest.warns(UserWarning, match="'npo' of the package toy 0.1 is left out: gunlearn has one") as told:
        assert METHODS["npo"].__module__.startswith("gunlearn.")
    assert ["'ga'" in str(told[1].message), "no plain word" in str(told[2].message)] == [True, True]
    assert "toy_module" not in sys.modules


def test_two_packages_of_one_name_are_both_refused(install: Callable[..., Path]) -> None:
    for name in ("toy", "other"):
        install(f"[gunlearn.methods]\ngentle = {name}_module:Gentle\n", name=name)
    with pytest.raises(PluginError, match=r"got other 0\.1 and toy 0\.1"):
        METHODS.find("gentle")
