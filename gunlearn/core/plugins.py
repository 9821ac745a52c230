"""Entry points of other packages: the classes that they add to a registry."""

import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from typing import Any

from gunlearn.errors import GunlearnError, PluginError

_NAME = re.compile(r"[A-Za-z_][\w-]*")
_told: set[str] = set()


@dataclass(frozen=True)
class Plugin:
    """A name that other packages give a class; imported by `load`.

    Args:
        kind: what is registered, for errors: `"method"`.
        points: one entry point; of several packages that chose the same name, each one's.
    """

    kind: str
    points: tuple[EntryPoint, ...]

    @property
    def origin(self) -> str:
        """Return name and version of the package: `"toy 0.1"`."""
        return " and ".join(map(_package, self.points))

    def load(self, base: type) -> type:
        """Return the class.

        Raises:
            PluginError: it cannot be imported, is no subclass of `base`, has another name, is refused by
                its own `check_registered`, or several packages have the name.
        """
        point, what = self.points[0], f"the {self.kind} '{self.points[0].name}' of the package {self.origin}"
        if len(self.points) > 1:
            raise PluginError(
                f"Expected one package with the {self.kind} '{point.name}' (got {self.origin}); {_REMEDY}"
            )
        try:
            cls = point.load()
        except (Exception, SystemExit) as error:  # whatever a module does when it is imported
            got = f"{type(error).__name__}: {error}"
            raise PluginError(f"Expected {what} to load from '{point.value}' (got {got}); {_remedy(point)}") from error
        if not isinstance(cls, type) or not issubclass(cls, base) or isabstract(cls):
            got = "an abstract class" if isinstance(cls, type) and issubclass(cls, base) else repr(cls)
            raise PluginError(f"Expected {what} to be a subclass of {base.__name__} (got {got}); {_remedy(point)}")
        own: Any = cls
        if own.name != point.name:
            raise PluginError(f"Expected {what} to be a class of that name (got '{own.name}'); {_remedy(point)}")
        try:
            getattr(cls, "check_registered", lambda: None)()
        except GunlearnError as error:
            raise PluginError(f"Expected {what} to be complete (got: {error}); {_remedy(point)}") from error
        return cls


def plugins(group: str, kind: str, taken: Collection[str]) -> dict[str, Plugin]:
    """Return what other packages register under a group of entry points, by name; nothing is imported.

    A name that is `taken` or no word is left out, with a warning that names the package.
    """
    found: dict[str, Plugin] = {}
    for point in entry_points(group=group) if group else ():
        name = point.name
        if name in taken:
            tell(
                f"The {kind} '{name}' of the package {_package(point)} is left out: gunlearn has one of that name",
                point,
            )
        elif not _NAME.fullmatch(name):
            tell(f"The {kind} '{name}' of the package {_package(point)} is left out: its name is no plain word", point)
        else:
            points = (*found[name].points, point) if name in found else (point,)
            found[name] = Plugin(kind, points)
    return found


def tell(text: str, point: EntryPoint | None = None) -> None:
    """Warn once per process."""
    if text not in _told:
        _told.add(text)
        warnings.warn(text if point is None else f"{text}; {_remedy(point)}", UserWarning, stacklevel=2)


_REMEDY = "uninstall all but one of them, or ask their authors for another name"


def _package(point: EntryPoint) -> str:
    return "unknown" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _remedy(point: EntryPoint) -> str:
    name = "PACKAGE" if point.dist is None else point.dist.name
    return f"update it, or take it away by 'pip uninstall {name}'"
