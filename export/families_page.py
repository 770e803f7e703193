"""docs/families.md, out of the families' files and the formats' refusals.

python -m switchkd.export.families_page > docs/families.md
"""

from __future__ import annotations

from collections.abc import Iterable

from switchkd.architecture.families import known
from switchkd.architecture.family import Family, Language, Projector, Refusal, Tower
from switchkd.export.gguf import vision as gguf_vision
from switchkd.export.onnx import language as onnx_language

_KINDS: dict[str, type[Family]] = {"vision tower": Tower, "projector": Projector, "language model": Language}
_FORMATS = {"gguf": "GGUF", "onnx": "ONNX"}
_BY_FORMAT = {
    "GGUF, the vision tower": gguf_vision.REFUSALS,
    "ONNX, the language model": onnx_language.REFUSALS,
}
_HEAD = """# Families

What a checkpoint may be made of, and where it goes. Made by `python -m switchkd.export.families_page` from the files in
`switchkd/architecture/families/`, one a family, and the refusals of the formats; a test holds this page to them.

A family is known by `model_type` in its part of config.json. Sizes are free: the shapes that `skd init --random` knows by name
are examples. Teacher and student may be of different families where the switch allows it: equal tokenizers, equal numbers of
tokens a picture, features of equal width.
"""
_TAIL = """
Every format refuses several joined feature layers, a selection that leaves out a patch or passes a class token, and values that
aren't finite. A precision has its own conditions (block sizes), which its refusal names.
"""


def families_page() -> str:
    """The page as Markdown."""
    rows = [
        f"| {family.title} (`{family.name}`) | {kind} | yes | "
        + " | ".join(_says(family, name) for name in _FORMATS)
        + " |"
        for kind, each in _KINDS.items()
        for family in sorted(known(each), key=lambda family: family.title)
    ]
    head = f"| family | part | train | {' | '.join(_FORMATS.values())} |\n|---|---|---|{'---|' * len(_FORMATS)}"
    families = [family for each in _KINDS.values() for family in known(each)]
    refused = [line for family in families for line in _lines(family.title, family.refusals)]
    refused += [line for where, refusals in _BY_FORMAT.items() for line in _lines(where, refusals)]
    return (
        "\n".join([_HEAD, head, *rows, "\n## What is trained and not exported\n", *refused, _TAIL.rstrip("\n")]) + "\n"
    )


def _says(family: Family, format: str) -> str:
    return f"no: {family.lacks[format]}" if format in family.lacks else "yes"


def _lines(where: str, refusals: Iterable[Refusal]) -> list[str]:
    formats = {refusal: f", {_FORMATS[refusal.format]}" if refusal.format else "" for refusal in refusals}
    return [f"- {where}{format}: {refusal.what}" for refusal, format in formats.items()]


if __name__ == "__main__":
    print(families_page(), end="")
