"""Chat templates: compiled as transformers compiles them, and marked, so that their text tells whose words it holds.

The marks are Unicode noncharacters, which no interchanged text contains. They travel through the template with the
text and are taken out of what it renders; so no block of it has to count characters.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from switchkd.errors import CheckpointError

CUT, OPEN, CLOSE = "\ufdd0", "\ufdd1", "\ufdd2"
MARK = re.compile(f"([{CUT}{OPEN}{CLOSE}])")


@dataclass(frozen=True)
class Layout:
    """A rendered conversation."""

    text: str
    answers: list[tuple[int, int]]  # the assistant's character ranges
    pieces: list[tuple[int, int]]  # character ranges to be tokenized apart


def read_marks(marked: str) -> Layout:
    """Takes the marks out of a rendered text and notes where they stood."""
    texts, answers, pieces = [], [], []
    position = cut = opened = 0
    for part in MARK.split(marked):
        if part == CUT:
            pieces.append((cut, position))
            cut = position
        elif part == OPEN:
            opened = position
        elif part == CLOSE:
            answers.append((opened, position))
        else:
            texts.append(part)
            position += len(part)
    return Layout("".join(texts), answers, [*pieces, (cut, position)])


class _Generation(jinja2.ext.Extension):
    """The `{% generation %}` tag of transformers' chat templates: marks its body instead of counting characters."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        environment.extend(marks_answers=False)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        self.environment.marks_answers = True  # type: ignore[attr-defined]
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{OPEN}{caller()}{CLOSE}"


def compile_template(template: str) -> jinja2.Template:
    """Compiles a template in the environment that transformers gives it: it is somebody else's code, so sandboxed."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(f"The chat template's line {error.lineno} has an error: {error.message}") from error


_TEMPLATES = Path(__file__).parent / "models" / "templates"


def template_names() -> list[str]:
    """The templates that come with the package."""
    return sorted(path.stem for path in _TEMPLATES.glob("*.jinja"))


def shipped_template(name: str) -> str:
    """One of them, with a `{% generation %}` block. Raises CheckpointError for an unknown name."""
    if name not in template_names():
        raise CheckpointError(f"There is no template '{name}'; known templates: {', '.join(template_names())}.")
    return (_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


# A template's pieces: comments, raw text, and what stands in braces, strings in it whole.
_PIECES = re.compile(
    r"""\{\#.*?\#\}
      | \{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}
      | \{\{(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?!\}\}).)*\}\}
      | \{%(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?!%\}).)*%\}""",
    re.DOTALL | re.VERBOSE,
)
_TAG = re.compile(r"(\{%[-+]?)(\s*)(end)?generation(\s*)([-+]?%\})")


def inference_template(template: str) -> str:
    """The same template without its `{% generation %}` blocks, which mark what is learned and which other readers of
    templates don't know: as conditions that always hold, so that white space around them is handled as before.

    It renders the same text.
    """

    def plain(piece: re.Match[str]) -> str:
        tag = _TAG.fullmatch(piece[0])
        if tag is None:
            return piece[0]
        opening, before, end, after, closing = tag.groups()
        return f"{opening}{before}{'endif' if end else 'if true'}{after}{closing}"

    return _PIECES.sub(plain, template)
