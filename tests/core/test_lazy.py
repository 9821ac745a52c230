"""Names of a package that load on first use."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gunlearn.core.lazy import lazy


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of one module, `tools`, which holds the function `make`."""
    folder = tmp_path / "gunlearn_lazy_probe"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tools.py").write_text("def make():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__(folder.name)
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_names_and_modules_load_on_use(package: str) -> None:
    get, names = lazy(package, {f"{package}.tools": ("make",)})
    assert f"{package}.tools" not in sys.modules
    assert "make" in names()
    assert get("make")() == 1
    assert get("tools").make is get("make")
    with pytest.raises(AttributeError, match="has no attribute 'made'"):
        get("made")


def test_a_name_that_an_import_would_hide_is_refused(package: str) -> None:
    with pytest.raises(ValueError, match=r"got \['tools'\]"):
        lazy(package, {f"{package}.tools": ("make", "tools")})
