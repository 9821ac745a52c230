import configparser
import contextlib
import email
import re
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint, PackageNotFoundError, requires

import pytest
import torch
import torch_geometric.typing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gunlearn.nn.kernels import scatter as _scatter
from tests.conftest import REPOSITORY

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
SOURCES = sorted((REPOSITORY / "gunlearn").rglob("*.py"))


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A copy of the repository's files, so that no build/ folder is left in it, nor an old one used."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    if not names:  # an unpacked archive
        ignored = {".venv", "build", "__pycache__"}
        found = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*"))
        names = [str(path) for path in found if not ignored & set(path.parts)]
    folder = tmp_path_factory.mktemp("source")
    for name in names:
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def wheel(source, tmp_path_factory):
    """Names and contents of the built wheel; no isolation, so no network is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel):
    (name,) = [name for name in wheel if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel[name])


def test_wheel_holds_the_package_and_nothing_else(wheel, source):
    assert {name.split("/")[0] for name in wheel} == {"gunlearn", f"gunlearn-{PROJECT['version']}.dist-info"}
    held = {name for name in wheel if name.startswith("gunlearn/")}
    package = {path.relative_to(source).as_posix() for path in (source / "gunlearn").rglob("*") if path.is_file()}
    assert held == package  # every module, py.typed, the report's templates
    assert {"gunlearn/py.typed", "gunlearn/datasets/catalogue.py"} <= held
    assert not [name for name in wheel if "__pycache__" in name]


def test_wheel_metadata(wheel):
    fields = metadata(wheel)
    assert fields["Name"] == "gunlearn"
    assert fields["Requires-Python"] == ">=3.10"
    assert fields["License-Expression"] == "MIT"
    assert set(fields.get_all("Provides-Extra")) == {
        "llm", "diffusion", "scatter", "distributed", "dask",
        "dp", "ray", "test", "docs", "gguf", "lm-eval"
    }  # fmt: skip
    required = [Requirement(line) for line in fields.get_all("Requires-Dist")]
    base = {r.name for r in required if r.marker is None}
    assert base == {Requirement(line).name for line in PROJECT["dependencies"]}
    assert {r.name for r in required if r.marker} & {"transformers", "diffusers", "ray", "sphinx"}


def test_torch_scatter_is_exact_and_in_one_extra_only(wheel):
    lines = [line for line in metadata(wheel).get_all("Requires-Dist") if "scatter" in Requirement(line).name]
    assert [re.sub("['\" ]", "", line) for line in lines] == ["torch-scatter==2.1.2;extra==scatter"]


def test_every_dependency_has_a_lower_bound():
    for line in PROJECT["dependencies"]:
        assert any(specifier.operator == ">=" for specifier in Requirement(line).specifier), line


def constraints():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_constraints_are_exact_and_portable():
    for pin in constraints():
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert "+" not in specifier.version  # a local version fits one index only
        assert pin.url is None


def test_constraints_satisfy_the_bounds():
    pinned = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in constraints()}
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), line


def test_setup_cfg_holds_tool_sections_only():
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    # setuptools drops these beside [project], pytest ignores its own beside pyproject.toml
    assert not {"metadata", "options", "options.extras_require", "tool:pytest"} & set(parser.sections())


def test_torch_scatter_is_imported_in_one_file():
    importing = re.compile(r"^\s*(import|from) torch_scatter\b", re.M)
    assert [path.name for path in SOURCES if importing.search(path.read_text())] == ["scatter.py"]


def test_module_and_entry_point_are_the_same_function():
    import gunlearn.__main__

    (name,) = PROJECT["scripts"]
    assert name == "gunlearn"
    assert EntryPoint(name, PROJECT["scripts"][name], "console_scripts").load() is gunlearn.__main__.main


def test_module_runs():
    done = subprocess.run([sys.executable, "-m", "gunlearn", "--help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gunlearn" in done.stdout


def test_version_is_one():
    import gunlearn

    assert gunlearn.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}" in (REPOSITORY / "CITATION.cff").read_text()


# scatter #####################################################################

REDUCE = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin, "mul": torch.prod}


@pytest.mark.parametrize("reduce", REDUCE)
def test_scatter_against_a_loop(reduce):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 3, generator=generator)
    index = torch.randint(0, 5, (20,), generator=generator)
    expected = torch.stack([REDUCE[reduce](values[index == i], dim=0) for i in range(5)])
    assert torch.allclose(_scatter.scatter(values, index, dim_size=5, reduce=reduce), expected, atol=1e-6)


@pytest.mark.scatter
@pytest.mark.parametrize("reduce", REDUCE)
def test_scatter_equals_torch_scatter(reduce):
    import torch_scatter

    values, index = torch.randn(50, 4), torch.randint(0, 7, (50,))
    expected = torch_scatter.scatter(values, index, dim=0, dim_size=7, reduce=reduce)
    assert torch.allclose(_scatter.scatter(values, index, dim_size=7, reduce=reduce), expected, atol=1e-5)


@pytest.mark.parametrize("before", [True, False])
def test_without_torch_scatter_restores(monkeypatch, before):
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", before)
    with _scatter.without_torch_scatter():
        assert torch_geometric.typing.WITH_TORCH_SCATTER is False
    assert torch_geometric.typing.WITH_TORCH_SCATTER is before
    with pytest.raises(KeyError), _scatter.without_torch_scatter():
        raise KeyError
    assert torch_geometric.typing.WITH_TORCH_SCATTER is before


def test_no_extra_brings_a_torchvision():
    """transformers and diffusers fail on a torchvision that does not fit the build of torch; pip takes any."""
    todo = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    waiting, seen = [Requirement(line) for lines in todo for line in lines], set()
    while waiting:
        one = waiting.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key in seen:
            continue
        seen.add(key)
        with contextlib.suppress(PackageNotFoundError):  # an extra that is not installed here
            needed = [Requirement(line) for line in requires(one.name) or []]
            extras = [{"extra": extra} for extra in ("", *one.extras)]
            waiting += [r for r in needed if r.marker is None or any(map(r.marker.evaluate, extras))]
    assert "torchvision" not in {name for name, _ in seen}
    pinned = (REPOSITORY / "constraints.txt").read_text()
    assert "torchvision" not in pinned
