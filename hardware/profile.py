"""What is known of a target computer: one TOML file a target, each figure with its source and how far to trust it.

    name = "raspberry-pi-5"
    title = "Raspberry Pi 5"

    [cores]
    value = { Cortex-A76 = 4 }
    source = "…"
    confidence = "secondary"

    [unknown]
    watts = "no public figure found"

Every field stands in a file exactly once: with a value, or under [unknown] with the reason why there is none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

LOCAL = "local"
# How far to trust a figure, the best first.
CONFIDENCES = {
    "measured": "measured on this computer, or published by who measured it with the method",
    "datasheet": "in a document of the maker",
    "computed": "follows from other figures, as the source says",
    "secondary": "in a document of somebody else",
    "estimated": "a judgement; the source says why",
}


class ProfileError(ValueError):
    """A profile that doesn't exist, can't be read or breaks a rule; one line, full sentences."""


@dataclass(frozen=True)
class Field:
    """What a field of a profile may hold."""

    kind: str  # text, texts, number, range (two numbers, rising), numbers (name → number), counts (name → whole number)
    unit: str  # of the number
    meaning: str  # one line, for people
    most: float = float("inf")  # the largest number that isn't a slip of the pen


FIELDS: dict[str, Field] = {
    "architecture": Field("text", "", "instruction set architecture: aarch64 or x86_64"),
    "cores": Field("counts", "", "processor cores by type", 512),
    "clock_ghz": Field("numbers", "GHz", "highest clock by core type", 7),
    "instructions": Field("texts", "", "vector instructions that matter for int8 and float products"),
    "ram_gb": Field("number", "GB", "memory, shared by all processors", 4096),
    "system_gb": Field("number", "GB", "of it, what the system and other programs keep", 4096),
    "memory_gbps": Field("number", "GB/s", "memory bandwidth of the bus", 20000),
    "memory_read_gbps": Field("number", "GB/s", "memory bandwidth that the processor's cores reached together", 20000),
    "matrix_f32_gmacs": Field("number", "Gmac/s", "float32 multiply-adds in large products, all cores", 1e6),
    "matrix_int8_gmacs": Field("number", "Gmac/s", "int8 multiply-adds in large products, all cores", 1e6),
    "vector_int8_gmacs": Field(
        "number", "Gmac/s", "int8 multiply-adds of a matrix in cache by one vector, all cores", 1e6
    ),
    "accelerator": Field("text", "", "graphics or neural processor"),
    "accelerator_int8_tops": Field("number", "TOPS", "its dense int8 operations (two a multiply-add)", 1e5),
    "watts": Field("range", "W", "lowest and highest power setting", 2000),
    "os": Field("text", "", "operating system"),
    "runtimes": Field("texts", "", "what runs models there"),
}


@dataclass(frozen=True)
class Figure:
    """One known value."""

    value: Any  # as the field's kind says
    source: str  # document, method or computation
    confidence: str  # one of CONFIDENCES


@dataclass(frozen=True)
class Profile:
    """A target computer."""

    name: str  # file name and what `--target` takes
    title: str  # for people
    figures: dict[str, Figure]  # field → what is known
    unknown: dict[str, str]  # field → why there is no value
    note: str = ""  # what else to know

    def value(self, field: str) -> Any:
        """A field's value, or None where it is unknown. Raises KeyError for a field that no profile has."""
        FIELDS[field]
        figure = self.figures.get(field)
        return None if figure is None else figure.value

    def to_json(self) -> dict[str, Any]:
        """The profile as the plain objects that `read_profile` takes."""
        figures = {
            name: {"value": figure.value, "source": figure.source, "confidence": figure.confidence}
            for name, figure in self.figures.items()
        }
        head = {"name": self.name, "title": self.title} | ({"note": self.note} if self.note else {})
        return {**head, **figures, "unknown": dict(self.unknown)}


def profile_names() -> list[str]:
    """Names of the shipped profiles, `local` last."""
    names = sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))
    return [*(name for name in names if name != LOCAL), LOCAL]


def load_profile(name: str) -> Profile:
    """A target by its name, or by the path of a TOML file of one's own.

    `local` is a profile without figures here; `switchkd.runtime.computer.profile.find_profile` fills it in.

    Raises:
        ProfileError: there is no such profile, or it breaks a rule.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(f"The profile {name} can't be read: {error}.") from error
        return _parse(text, name)
    return shipped_profile(name)


def shipped_profile(name: str) -> Profile:
    """A profile of this package as it was written; `local` without what is measured. Raises ProfileError."""
    if name not in profile_names():
        raise ProfileError(
            f"There is no target '{name}'; there are {', '.join(profile_names())}, or a path to a .toml file."
        )
    return _parse((_shipped() / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")


def read_profile(value: Mapping[str, Any], where: str) -> Profile:
    """A profile out of plain objects, every rule checked.

    Args:
        where: the file's name, for errors.

    Raises:
        ProfileError: a rule is broken: which, and in which field.
    """
    head = {key: value.get(key, "") for key in ("name", "title", "note")}
    unknown = value.get("unknown", {})
    for key, text in head.items():
        if not isinstance(text, str) or (not text.strip() and key != "note"):
            raise ProfileError(f"{where}: '{key}' must be a text.")
    if not isinstance(unknown, Mapping) or not all(isinstance(why, str) and why.strip() for why in unknown.values()):
        raise ProfileError(f"{where}: [unknown] must give a reason for each field in it.")
    known = {key: item for key, item in value.items() if key not in (*head, "unknown")}
    for key in (*known, *unknown):
        if key not in FIELDS:
            raise ProfileError(f"{where}: there is no field '{key}'; there are {', '.join(FIELDS)}.")
    for key in FIELDS:
        if (key in known) == (key in unknown):
            both = (
                "both with a value and under [unknown]"
                if key in known
                else "missing: give a value, or a reason under [unknown]"
            )
            raise ProfileError(f"{where}: '{key}' is {both}.")
    figures = {key: _figure(key, item, where) for key, item in known.items()}
    profile = Profile(head["name"], head["title"], figures, dict(unknown), head["note"])
    _check_together(profile, where)
    return profile


def _shipped() -> Any:
    return resources.files("switchkd.hardware") / "profiles"


def _parse(text: str, where: str) -> Profile:
    try:
        return read_profile(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where} is no TOML: {error}.") from error


def _figure(key: str, item: Any, where: str) -> Figure:
    if not isinstance(item, Mapping) or set(item) != {"value", "source", "confidence"}:
        raise ProfileError(f"{where}: [{key}] must have value, source and confidence, and nothing else.")
    if not isinstance(item["source"], str) or not item["source"].strip():
        raise ProfileError(f"{where}: [{key}] names no source.")
    if not isinstance(item["confidence"], str) or item["confidence"] not in CONFIDENCES:
        raise ProfileError(
            f"{where}: [{key}] has the confidence {item['confidence']!r}; there are {', '.join(CONFIDENCES)}."
        )
    field = FIELDS[key]
    if not _CHECKS[field.kind](item["value"], field.most):
        raise ProfileError(
            f"{where}: the value of [{key}], {item['value']!r}, isn't {_KINDS[field.kind]} of {field.meaning}."
        )
    return Figure(item["value"], item["source"], item["confidence"])


def _check_together(profile: Profile, where: str) -> None:
    cores, clocks = profile.value("cores"), profile.value("clock_ghz")
    if cores and clocks and not set(clocks) <= set(cores):
        raise ProfileError(f"{where}: [clock_ghz] names core types that [cores] doesn't have.")
    ram, system = profile.value("ram_gb"), profile.value("system_gb")
    if ram is not None and system is not None and system >= ram:
        raise ProfileError(f"{where}: the system can't keep {system} GB of {ram} GB.")


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most


def _is_text(value: Any, most: float = 0) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(_is_text(key) for key in value)


_KINDS = {
    "text": "a text, the",
    "texts": "a list of texts, the",
    "number": "a positive number in range, the",
    "range": "two positive numbers in rising order, the",
    "numbers": "a table of positive numbers in range, the",
    "counts": "a table of positive whole numbers in range, the",
}
_CHECKS = {
    "text": _is_text,
    "texts": lambda value, most: isinstance(value, list) and bool(value) and all(map(_is_text, value)),
    "number": _is_number,
    "range": lambda value, most: (
        isinstance(value, list)
        and len(value) == 2
        and all(_is_number(each, most) for each in value)
        and value[0] <= value[1]
    ),
    "numbers": lambda value, most: _is_table(value) and all(_is_number(each, most) for each in value.values()),
    "counts": lambda value, most: (
        _is_table(value) and all(isinstance(each, int) and _is_number(each, most) for each in value.values())
    ),
}
