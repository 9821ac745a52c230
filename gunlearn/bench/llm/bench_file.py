"""The YAML file of a bench."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gunlearn.bench.llm.arms import Arm
from gunlearn.core.checks import check_integer, check_number
from gunlearn.core.options import did_you_mean
from gunlearn.errors import InvalidInputError

#: Keys whose values are files or folders, relative to the YAML file.
_FILES = ("forget", "retain", "holdout", "alternative", "out")
#: Folders, or ids of the Hub.
_MODELS = ("model", "references")
_LISTS = ("references", "rates", "seeds")
_TEXTS = (*_FILES, "model", "template")
_OTHERS = (
    "utility", "methods", "rates", "seeds", "epochs", "batch_size", "every", "samples", "asked", "max_new_tokens",
    "measured_batch", "rouge", "tolerance", "half_seed", "template", "budget_minutes",
)  # fmt: skip
KEYS = (*_FILES, *_MODELS, *_OTHERS)
_OF_ARM = ("method", "rates", "options", "peft", "epochs", "batch_size")


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key which a mapping has twice; YAML takes the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"{twice[0]!r} twice")
        return super().construct_mapping(node, deep)


def read_bench(path: str | Path) -> dict[str, Any]:
    """Return the settings of a YAML file by name, paths relative to its folder made whole; one value is a list of one.

    Raises:
        InvalidInputError: no such file, no YAML, no mapping, a key twice, an unknown key (with the one that was
            probably meant), or a value of another kind.
    """
    path = Path(path)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InvalidInputError(f"Expected a YAML file (got {path}: {error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Expected YAML in {path.name} (got: {' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, Mapping):
        raise InvalidInputError(f"Expected settings by name in {path.name} (got {type(found).__name__})")
    _check_keys(found, KEYS, path.name)
    out = {name: value for name, value in found.items() if value is not None}
    for name in _LISTS:
        if name in out and not isinstance(out[name], list):
            out[name] = [out[name]]
    for name in _TEXTS:
        if not isinstance(out.get(name, ""), str):
            raise InvalidInputError(f"Expected a text as '{name}' in {path.name} (got {out[name]!r:.80})")
    for name in (*_FILES, *_MODELS):
        if name in out:
            out[name] = _beside(path, out[name], name in _MODELS)
    if "utility" in out:
        if not isinstance(out["utility"], Mapping):
            raise InvalidInputError(f"Expected 'utility' as files by name in {path.name} (got {out['utility']!r:.80})")
        out["utility"] = {name: _beside(path, file) for name, file in out["utility"].items()}
    return out


def check_reporting(settings: Mapping[str, Any]) -> None:
    """Refuse numbers out of range that are read after runs, or with the rows, before a model is loaded."""
    for name, least in (("asked", 1), ("half_seed", 0)):
        if name in settings:
            check_integer(name, settings[name], minimum=least)
    if "tolerance" in settings:
        check_number("tolerance", settings["tolerance"], minimum=0.0)


def arms_of(
    methods: Any,
    rates: Sequence[Any],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    completed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> list[Arm]:
    """Return the methods to compare.

    Args:
        methods: names, or settings by name, `{"npo lora": {"method": "npo", "peft": "lora", "rates": [...]}}`.
        rates: learning rates of methods that have none of their own.
        options: options of methods by name, beside their own.
        completed: returns a method's options, its own and those beside them, with what these need.

    Raises:
        InvalidInputError: no methods, unknown settings, or as `Arm`.
    """
    given = methods if isinstance(methods, Mapping) else dict.fromkeys(methods or ())
    if isinstance(methods, str) or not given:
        raise InvalidInputError(f"Expected methods to compare, by name (got {methods!r})")
    arms = []
    for name, own in given.items():
        if not isinstance(own, Mapping | None):
            raise InvalidInputError(f"Expected settings of '{name}' by name, or none (got {own!r:.80})")
        settings = dict(own or {})
        _check_keys(settings, _OF_ARM, f"'{name}'")
        if not isinstance(settings.get("options", {}), Mapping):
            raise InvalidInputError(f"Expected options of '{name}' by name (got {settings['options']!r:.80})")
        of_arm = settings.get("rates", rates) or ()
        arms.append(
            Arm(
                method=settings.get("method", name),
                rates=tuple(_number(rate, name) for rate in (of_arm if isinstance(of_arm, Sequence) else [of_arm])),
                name=str(name),
                options=completed({**(options or {}).get(name, {}), **settings.get("options", {})}),
                **{key: settings.get(key) for key in ("peft", "epochs", "batch_size")},
            )
        )
    return arms


def _number(value: Any, name: str) -> float:
    """Return a rate; YAML reads `1e-5` as a text."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"Expected learning rates of '{name}' as numbers (got {value!r})") from error


def _check_keys(found: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = [key for key in found if key not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise InvalidInputError(f"Expected settings of {where} among {sorted(known)} (got {unknown[0]!r}){hint}")


def _beside(path: Path, value: Any, ids: bool = False) -> Any:
    """Return one path or several, seen from the folder of `path`; of `ids`, one of the Hub stays as it is."""
    if isinstance(value, list):
        return [_beside(path, entry, ids) for entry in value]
    near = path.parent / str(value)
    return str(value) if ids and not near.exists() and str(value).count("/") == 1 else str(near)
