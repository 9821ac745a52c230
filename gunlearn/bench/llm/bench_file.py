"""The YAML file of a bench."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gunlearn.bench.llm.arms import Arm
from gunlearn.core.checks import check_integer, check_number
from gunlearn.core.options import did_you_mean
from gunlearn.errors import InvalidInputError

#: Keys whose values are files or folders, relative to the YAML file.
_FILES = ("forget", "retain", "holdout", "alternative")
_FOLDERS = ("model", "references", "out")
_OTHERS = (
    "utility", "methods", "rates", "seeds", "epochs", "batch_size", "every", "samples", "asked", "max_new_tokens",
    "measured_batch", "rouge", "tolerance", "half_seed", "template", "budget_minutes",
)  # fmt: skip
KEYS = (*_FILES, *_FOLDERS, *_OTHERS)
_OF_ARM = ("method", "rates", "options", "peft", "epochs", "batch_size")


def read_bench(path: str | Path) -> dict[str, Any]:
    """Return the settings of a YAML file by name, paths relative to its folder made whole.

    Raises:
        InvalidInputError: no such file, no YAML, no mapping, or an unknown key (with the one that was probably meant).
    """
    path = Path(path)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"Expected a YAML file (got {path}: {error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Expected YAML in {path.name} (got: {' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, Mapping):
        raise InvalidInputError(f"Expected settings by name in {path.name} (got {type(found).__name__})")
    _check_keys(found, KEYS, path.name)
    out = dict(found)
    for name in (*_FILES, *_FOLDERS):
        if name in out:
            out[name] = _beside(path, out[name])
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


def arms_of(methods: Any, rates: Sequence[Any], options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Arm]:
    """Return the methods to compare.

    Args:
        methods: names, or settings by name, `{"npo lora": {"method": "npo", "peft": "lora", "rates": [...]}}`.
        rates: learning rates of methods that have none of their own.
        options: options of methods by name, beside their own.

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
        arms.append(
            Arm(
                method=settings.get("method", name),
                rates=tuple(_number(rate, name) for rate in settings.get("rates", rates) or ()),
                name=str(name),
                options={**(options or {}).get(name, {}), **settings.get("options", {})},
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


def _beside(path: Path, value: Any) -> Any:
    """Return one path or several, seen from the folder of `path`; an id of the Hub stays as it is."""
    if isinstance(value, list):
        return [_beside(path, entry) for entry in value]
    near = path.parent / str(value)
    return str(near) if near.exists() or str(value).count("/") != 1 else str(value)
