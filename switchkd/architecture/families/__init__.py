"""Every family that is known: one file with a `FAMILY` each, here or in a folder `switchkd_families` on Python's path."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

from switchkd.architecture.family import Family
from switchkd.extensions import extension_names, load_extension

_Kind = TypeVar("_Kind", bound=Family)
FOLDER = "switchkd_families"  # its modules are families from outside: docs/extending.md
# What a part that is trained from nothing is where its recipe doesn't say.
NEW = {"vision": "siglip_vision_model", "language": "qwen2"}


def known(kind: type[_Kind]) -> list[_Kind]:
    """The families of a kind. Raises ExtensionError for a file from outside that declares none."""
    outside = (load_extension(FOLDER, name, "FAMILY", Family, _BUILT_IN).FAMILY for name in extension_names(FOLDER))
    return [family for family in (*_BUILT_IN.values(), *outside) if isinstance(family, kind)]


def find(kind: type[_Kind], name: Any) -> _Kind | None:
    """The family of a name, or None where it isn't known. Raises as `known`."""
    return next((family for family in known(kind) if family.name == name), None)


_modules = (import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__))
_BUILT_IN: dict[str, Family] = {each.FAMILY.name: each.FAMILY for each in _modules if hasattr(each, "FAMILY")}
