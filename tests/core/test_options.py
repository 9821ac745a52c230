"""The one parser of options: what `run`, `influence` and `llm` read from the command line."""

from typing import Any, get_type_hints

import pytest

from gunlearn.core.options import check_options, parse_pair, parse_value, typed_options
from gunlearn.errors import InvalidInputError
from gunlearn.methods import METHODS


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False),
        ("True", True),
        ("None", None),
        ("none", None),
        ("null", None),
        ("5", 5),
        ("1e-3", 1e-3),
        ("[1, 2]", [1, 2]),
        ("(1, 2)", (1, 2)),
        ('["a", null, true]', ["a", None, True]),
        ('{"a": false}', {"a": False}),
        ("['a']", ["a"]),
        ('"none"', "none"),
        ("retain", "retain"),
        ("a, b", "a, b"),
        ("{question}", "{question}"),
        ("{[]: 1}", "{[]: 1}"),
        ("", ""),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize("name", METHODS)
def test_options_of_every_method_are_checked(name: str) -> None:
    """An annotation that cannot be resolved would switch the check off."""
    cls = METHODS[name]
    hints = get_type_hints(cls)
    for option in cls.options():
        if hints[option] in (int, float, bool, str):
            with pytest.raises(InvalidInputError, match=f"Expected '{option}' of '{name}' to be"):
                check_options(cls, {option: ["neither"]}, name)


def test_pairs() -> None:
    assert parse_pair(" key = a=b ", "--arg") == ("key", "a=b")
    for wrong in ("key", "=5", ""):
        with pytest.raises(InvalidInputError, match="--arg key=value"):
            parse_pair(wrong, "--arg")


def test_the_option_said_for_one_alone_wins_whatever_the_order() -> None:
    known = {"a": ("x", "y"), "b": ("x",)}
    assert typed_options(["a.x=1", "x=2", "y=null"], known, "thing") == {"a": {"x": 1, "y": None}, "b": {"x": 2}}
    for wrong, words in (("b.y=1", "b: x"), ("z=1", "a: x, y; b: x"), ("c.x=1", "'a', 'b'"), ("a.=1", "a: x, y")):
        with pytest.raises(InvalidInputError, match=words):
            typed_options([wrong], known, "thing")


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("retrain", {"train": 3}, "'train' of 'retrain' to be a function or None"),
        ("finetune", {"optimizer_options": 1.5}, "'optimizer_options' of 'finetune' to be a mapping or None"),
        ("finetune", {"scheduler_options": [1]}, "'scheduler_options' of 'finetune' to be a mapping or None"),
        ("finetune", {"num_neighbors": 5}, "'num_neighbors' of 'finetune' to be a tuple or None"),
        ("ceu", {"perturbation": True}, "'perturbation' of 'ceu' to be a Tensor or None"),
    ],
)
def test_values_of_other_types_are_refused(method: str, options: dict, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_options(METHODS[method], options, method)
    check_options(METHODS[method], dict.fromkeys(options), method)  # control: None is the default
    check_options(METHODS["finetune"], {"num_neighbors": [5, 5], "optimizer_options": {"eps": 1e-6}}, "finetune")
