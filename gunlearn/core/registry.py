"""Registries: classes by name, imported on first use."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, Generic, TypeVar

from gunlearn.core.options import check_options, did_you_mean, option_names
from gunlearn.core.plugins import Plugin, plugins, tell
from gunlearn.errors import InvalidInputError, MissingExtraError, PluginError

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes by name. Objects are built from a string, `"name"` or `"name:variant"`.

    Other packages add classes by entry points. Their names are read at the first lookup; their modules are imported
    where a class is asked for. A class that cannot be used is left out of iteration, with a warning; asked for by name,
    it raises `PluginError`.

    Args:
        kind: what is registered, for errors: `"method"`.
        homes: `"module:Class"` by name; the module is imported on first use.
        renamed: new names by old ones, for errors.
        group: of the entry points; empty where other packages can add nothing.
        base: `"module:Class"` that their classes derive from.

    Example:
        >>> orders = Registry("mapping", {"ordered": "collections:OrderedDict"})
        >>> orders["ordered"].__name__
        'OrderedDict'
    """

    def __init__(
        self,
        kind: str,
        homes: Mapping[str, str],
        renamed: Mapping[str, str] | None = None,
        group: str = "",
        base: str = "",
    ) -> None:
        self.kind, self._homes, self._renamed, self._group, self._base = kind, homes, renamed or {}, group, base

    @cached_property
    def _plugins(self) -> dict[str, Plugin]:
        return plugins(self._group, self.kind, {*self._homes, *self._renamed})

    def scan(self) -> None:
        """Read the entry points again, of packages that were installed since."""
        self.__dict__.pop("_plugins", None)

    def origin(self, name: str) -> str:
        """Return name and version of the package that added a class; empty for our own."""
        return self._plugins[name].origin if name in self._plugins else ""

    def __getitem__(self, name: str) -> type[T]:
        if name in self._plugins:
            return self._plugins[name].load(_loaded(self._base))
        return _loaded(self._homes[name])

    def __iter__(self) -> Iterator[str]:
        yield from self._homes
        for name in list(self._plugins):
            try:
                _ = self[name]
            except PluginError as error:
                tell(str(error))
            else:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        """Return whether the name is registered; imports nothing."""
        if name not in self._homes and name not in self._plugins:
            self.scan()
        return name in self._homes or name in self._plugins

    def importable(self) -> dict[str, type[T] | ImportError]:
        """Return the classes by name; in place of one that cannot be had, the error that says why."""
        out: dict[str, type[T] | ImportError] = {}
        for name in (*self._homes, *self._plugins):
            try:
                out[name] = self[name]
            except (MissingExtraError, PluginError) as error:
                out[name] = error
        return out

    def find(self, name: object, among: Callable[[], Iterable[str]] | None = None) -> type[T]:
        """Return the class of that name, or raise InvalidInputError with the nearest known name.

        `among` returns the names that the message lists; by default all.
        """
        if not isinstance(name, str) or name not in self:
            known = sorted({*self._homes, *self._plugins} if among is None else among())
            instead = self._renamed.get(str(name))
            hint = f"; it is called '{instead}' now" if instead else did_you_mean(name, known)
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise InvalidInputError(f"Expected {article} {self.kind} among {known} (got {name!r}){hint}")
        return self[name]

    def variant(self, spec: str, among: Callable[[], Iterable[str]] | None = None) -> tuple[type[T], dict[str, Any]]:
        """Return class and options of `"name"` or `"name:variant"`; see `find`."""
        name, _, variant = str(spec).partition(":")
        if spec in self._renamed:
            self.find(spec, among)
        cls = self.find(name, among)
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


def _loaded(home: str) -> Any:
    """Import `"module:name"`."""
    module, _, attribute = home.partition(":")
    return getattr(import_module(module), attribute)
