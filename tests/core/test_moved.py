"""What release 0.1 called otherwise: an import says the new name."""

from pkgutil import resolve_name

import pytest

from gunlearn.core.moved import MOVED

pytest.importorskip("transformers")


def test_every_new_name_exists_and_no_old_one_does() -> None:
    for old, new in MOVED.items():
        assert resolve_name(new) is not None
        with pytest.raises(ImportError, match=f"'{new}'|'gunlearn.attribution'"):
            __import__(old)


@pytest.mark.parametrize(
    ("package", "name", "new"),
    [
        ("gunlearn.losses", "CEU", "gunlearn.losses.CrossEntropyUnlearning"),
        ("gunlearn.methods", "build", "gunlearn.methods.build_method"),
        ("gunlearn.methods", "gif", "gunlearn.methods.second_order.gif"),
        ("gunlearn.llm", "METHODS", "gunlearn.methods.METHODS"),
    ],
)
def test_a_name_imported_from_its_old_package_says_the_new_one(package: str, name: str, new: str) -> None:
    with pytest.raises(ImportError, match=f"'{new}'"):
        exec(f"from {package} import {name}")
    with pytest.raises(ImportError, match=r"cannot import name 'nothing'"):
        exec(f"from {package} import nothing")
