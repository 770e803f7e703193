"""The pages that are made from the program itself: what a test holds them to.

python docs/generate.py [FOLDER]    writes families.md and commands.md, by default into docs/
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from switchkd.architecture.families import known
from switchkd.architecture.family import Family, Language, Projector, Refusal, Tower
from switchkd.cli.main import main as skd
from switchkd.export.gguf import vision as gguf_vision
from switchkd.export.onnx import language as onnx_language

FOLDER = Path(__file__).parent
_WIDTH = 100  # of help texts
_KINDS: dict[str, type[Family]] = {"vision tower": Tower, "projector": Projector, "language model": Language}
_FORMATS = {"gguf": "GGUF", "onnx": "ONNX"}
_BY_FORMAT = {
    "GGUF, the vision tower": gguf_vision.REFUSALS,
    "ONNX, the language model": onnx_language.REFUSALS,
}
_FAMILIES = """# Families

What a checkpoint may be made of, and where it goes. Made by `python docs/generate.py` from the files in
`switchkd/architecture/families/`, one a family, and from the refusals of the formats; a test holds this page to them. Others are
added by a file outside the package: [extending](extending.md).

A family is known by `model_type` in its part of config.json. Sizes are free: the shapes that `skd init --random` knows by name
are examples. Teacher and student may be of different families where the switch allows it: equal tokenizers, equal numbers of
tokens a picture before and behind the projector, features of equal width.

A projector is known by `projector_type` in config.json, which LLaVA's own leaves out; its settings are entries beside it, and
options of `skd init`.
"""
_NEEDS = """
## What is refused from the start

When it is made, trained or exported:

- a projector that makes fewer tokens: a `vision_feature_select_strategy` that passes a class token or leaves a patch out"""
_EVERYWHERE = """
Every format refuses several joined feature layers, and values that aren't finite. A precision has its own conditions (block sizes),
which its refusal names.
"""
_BEHIND = """
## Tokens of a picture

`vision_feature_select_strategy` is `default`, without the tower's first token, or `full`, with all of them (`skd init
--feature-select`). CLIP's first is its class token; SigLIP's is a patch: TinyLLaVA Factory leaves it out, 728 tokens and not
729. All four are trained and exported but CLIP's class token in GGUF, for which llama.cpp has no place.

SigLIP 2 of fixed size (`google/siglip2-so400m-patch14-384`) is SigLIP to transformers, and here; NaFlex (`siglip2_vision_model`)
isn't supported.

## In transformers

A folder whose projector is LLaVA's own has `model_type` `llava`. The others are of a class that this package brings, without code
in the folder; one import tells transformers of it:

```python
import switchkd.models.llava  # AutoConfig, AutoModelForImageTextToText and AutoProcessor know `switchkd_llava` from here on
from transformers import AutoModelForImageTextToText, AutoProcessor

model, processor = (each.from_pretrained("student") for each in (AutoModelForImageTextToText, AutoProcessor))
```
"""
_COMMANDS = """# Commands

What `--help` says, of every command. Made by `python docs/generate.py`; a test holds this page to the help texts.
"""


def families_page() -> str:
    """docs/families.md."""
    kinds = [(kind, family) for kind, each in _KINDS.items() for family in known(each)]
    rows = [
        f"| {family.title} (`{family.name}`) | {kind} | yes | {' | '.join(_says(family, name) for name in _FORMATS)} |"
        for kind, family in kinds
    ]
    head = f"| family | part | train | {' | '.join(_FORMATS.values())} |\n|---|---|---|{'---|' * len(_FORMATS)}"
    refused = [line for _, family in kinds for line in _lines(family.title, family.refusals)]
    refused += [line for where, refusals in _BY_FORMAT.items() for line in _lines(where, refusals)]
    needs = [line for family in known(Projector) for line in _lines(family.title, family.needs)]
    exports = ["\n## What is trained and not exported\n", *refused]
    return "\n".join([_FAMILIES, head, *rows, _NEEDS, *needs, *exports, _EVERYWHERE + _BEHIND])


def _says(family: Family, format: str) -> str:
    return f"no: {family.lacks[format]}" if format in family.lacks else "yes"


def _lines(where: str, refusals: Iterable[Refusal]) -> list[str]:
    return [
        f"- {where}{f', {_FORMATS[refusal.format]}' if refusal.format else ''}: {refusal.what}" for refusal in refusals
    ]


def commands_page() -> str:
    """docs/commands.md."""
    parts = [_COMMANDS]
    for name, command in _commands("skd", skd):
        context = click.Context(command, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH)
        context.help_option_names = ["-h", "--help"]
        parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for inner in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), inner)
            if found is not None and not found.hidden:
                yield from _commands(f"{name} {inner}", found)


PAGES: dict[str, Callable[[], str]] = {"families.md": families_page, "commands.md": commands_page}

if __name__ == "__main__":
    for page, make in PAGES.items():
        Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER, page).write_text(make(), encoding="utf-8")
