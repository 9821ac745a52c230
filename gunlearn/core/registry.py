"""Registries: classes by name, imported on first use."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from gunlearn.core.options import check_options, did_you_mean, option_names
from gunlearn.errors import InvalidInputError, MissingExtraError

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes by name. Objects are built from a string, `"name"` or `"name:variant"`.

    Args:
        kind: what is registered, for errors: `"method"`.
        homes: `"module:Class"` by name; the module is imported on first use.
        renamed: new names by old ones, for errors.

    Example:
        >>> orders = Registry("mapping", {"ordered": "collections:OrderedDict"})
        >>> orders["ordered"].__name__
        'OrderedDict'
    """

    def __init__(self, kind: str, homes: Mapping[str, str], renamed: Mapping[str, str] | None = None) -> None:
        self.kind, self._homes, self._renamed = kind, homes, renamed or {}

    def __getitem__(self, name: str) -> type[T]:
        module, _, attribute = self._homes[name].partition(":")
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, name: object) -> bool:
        """Return whether the name is registered; imports nothing."""
        return name in self._homes

    def importable(self) -> dict[str, type[T] | MissingExtraError]:
        """Return the classes by name; where an extra is not installed, the error that names it."""
        out: dict[str, type[T] | MissingExtraError] = {}
        for name in self:
            try:
                out[name] = self[name]
            except MissingExtraError as error:
                out[name] = error
        return out

    def find(self, name: object) -> type[T]:
        """Return the class of that name, or raise InvalidInputError with the nearest known name."""
        if not isinstance(name, str) or name not in self._homes:
            instead = self._renamed.get(str(name))
            hint = f"; it is called '{instead}' now" if instead else did_you_mean(name, self._homes)
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise InvalidInputError(f"Expected {article} {self.kind} among {sorted(self._homes)} (got {name!r}){hint}")
        return self[name]

    def variant(self, spec: str) -> tuple[type[T], dict[str, Any]]:
        """Return class and options of `"name"` or `"name:variant"`."""
        name, _, variant = str(spec).partition(":")
        if spec in self._renamed:
            self.find(spec)
        cls = self.find(name)
        variants: Mapping[str, dict[str, Any]] = getattr(cls, "variants", {})
        if variant and variant not in variants:
            hint = did_you_mean(variant, variants)
            raise InvalidInputError(f"Expected a variant of '{name}' among {sorted(variants)} (got '{variant}'){hint}")
        return cls, dict(variants.get(variant, {}))

    def build(self, spec: str | T, options: Mapping[str, Any]) -> T:
        """Return an object from its name and options, or the object itself, for which options are refused."""
        if not isinstance(spec, str):
            if options:
                raise InvalidInputError(
                    f"Expected options with a {self.kind}'s name only (got an object and {sorted(options)})"
                )
            return spec
        return self.construct(spec, *self.variant(spec), options)

    def construct(self, name: str, cls: type[T], settings: Mapping[str, Any], options: Mapping[str, Any]) -> T:
        """Return an object of a class with `settings`, which the caller's `options` override once they are checked."""
        self.check_known(name, cls, options)
        check_options(cls, options, name)
        return cls(**{**settings, **options})

    def check_known(self, name: str, cls: type[T], options: Mapping[str, Any]) -> None:
        """Refuse options that a class does not have; its `not_options` say what to do in place of some."""
        known = option_names(cls)
        unknown = sorted(set(options) - set(known))
        if unknown:
            hint = getattr(cls, "not_options", {}).get(unknown[0], did_you_mean(unknown[0], known))
            raise InvalidInputError(f"Expected options of '{name}' among {sorted(known)} (got {unknown}){hint}")
