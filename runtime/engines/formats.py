"""Every format and runtime that is known: this package's, and those of files `switchkd_formats/NAME.py` on Python's path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from types import ModuleType

from switchkd.errors import ExtensionError
from switchkd.extensions import extension_names, load_extension
from switchkd.hardware.runtimes import FORMATS, RUNTIMES, Format, Runtime

FOLDER = "switchkd_formats"  # its modules are formats from outside: docs/extending.md
MODULES: dict[str, ModuleType] = {}  # by their names, which are those of their runtimes too


def known_formats() -> Mapping[str, Format]:
    """Every format, by its name. Raises ExtensionError for a file from outside that can't be used."""
    new = {
        name: load_extension(FOLDER, name, "FORMAT", Format, FORMATS)
        for name in extension_names(FOLDER)
        if name not in MODULES
    }
    runtimes = dict(RUNTIMES)
    for name, module in new.items():
        if hasattr(module, "RUNTIME"):  # otherwise it pairs those that there are
            runtime = load_extension(FOLDER, name, "RUNTIME", Runtime, RUNTIMES).RUNTIME
            if runtime.suffix in {each.suffix for each in runtimes.values()}:
                raise ExtensionError(f"{module.__file__}: another runtime's files end in {runtime.suffix} already.")
            runtimes[name] = runtime
    for module in new.values():
        if missing := {module.FORMAT.vision, module.FORMAT.language} - {*runtimes}:
            raise ExtensionError(
                f"{module.__file__}: there is no runtime '{min(missing)}'; known are {', '.join(runtimes)}."
            )
    RUNTIMES.update(runtimes)
    FORMATS.update({name: module.FORMAT for name, module in new.items()})
    MODULES.update(new)
    return FORMATS


def known_runtimes() -> Mapping[str, Runtime]:
    """Every runtime, by its name. Raises as `known_formats`."""
    known_formats()
    return RUNTIMES


def runtime_of(file: str) -> Runtime | None:
    """What runs a file, by its suffix; None where nothing is known of it. Raises as `known_formats`."""
    suffix = PurePath(file).suffix
    return next((runtime for runtime in known_runtimes().values() if runtime.suffix == suffix), None)
