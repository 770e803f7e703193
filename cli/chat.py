"""`skd chat`: ask an exported student, or a checkpoint, about a picture."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from switchkd.cli.options import RUN, find_named, sampling_options

if TYPE_CHECKING:
    from switchkd.runtime.engines.engine import Engine, Floats
    from switchkd.runtime.engines.grammar import Grammar
    from switchkd.runtime.engines.sampling import Sampling

_HELP = """/image FILE   talk about another picture, from the beginning
/add FILE     show one more picture with the next question
/reset        forget what was said; the pictures stay
/help         this list
An empty line ends."""


@click.command("chat", short_help="Ask a student about pictures.")
@click.argument("variant")
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Picture to talk about; repeat it for several, in their order.",
)
@click.option("--prompt", help="One question. Without it, questions are read line by line until the input ends.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads. Default: all.")
@click.option("--device", default="cpu", show_default=True, help="Where an ONNX export runs; `skd doctor` lists them.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@RUN
@click.option(
    "--choices",
    metavar="A,B,…",
    help="Answer with one of these, and tell how probable each is. A JSON list may have commas.",
)
@click.option(
    "--schema",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Answer in JSON that fits the JSON schema in FILE.",
)
@sampling_options
@click.option("--seed", type=int, help="Draw the same answer again. Default: another one each time.")
def chat_command(
    variant: str,
    images: tuple[Path, ...],
    prompt: str | None,
    threads: int | None,
    device: str,
    max_tokens: int,
    run_name: str | None,
    choices: str | None,
    schema: Path | None,
    **sampling: Any,
) -> None:
    """Ask VARIANT: an export folder, the name of one of a run's exports (also as RUN/NAME), or a checkpoint (a folder, or its
    name on the hub).

    The answer appears as it is generated. In a conversation /help lists what can be done beside asking.
    """
    from switchkd.runtime.engines.opening import open_engine
    from switchkd.runtime.engines.sampling import Sampling

    if choices is not None and schema is not None:
        raise click.UsageError("An answer has one form: --choices or --schema.")
    texts = None if choices is None else _read_choices(choices)
    form = None if schema is None else _read_schema(schema)
    settings = Sampling(**sampling)
    pictures = [_open(image) for image in images]
    with open_engine(find_named(variant, run_name), threads=threads, device=device) as engine:
        grammar = None if form is None else engine.grammars.json_schema(form)
        conversation = Conversation(engine, max_tokens, settings, texts, grammar)
        conversation.show(pictures)
        if prompt is not None:
            conversation.ask(prompt)
        else:
            _converse(conversation)


class Conversation:
    """Questions about any number of pictures, each asked with all that was said before.

    Args:
        engine: answers.
        max_tokens: of an answer.
        sampling: how its tokens are drawn.
        choices: one of which is the answer; None: any.
        grammar: that the answer fits; None: any.
    """

    def __init__(
        self, engine: Engine, max_tokens: int, sampling: Sampling, choices: list[str] | None, grammar: Grammar | None
    ) -> None:
        self._engine, self._max_tokens, self._sampling = engine, max_tokens, sampling
        self._choices, self._grammar = choices, grammar
        self._seen: list[Floats] = []  # each picture's, in their order
        self._placed = 0  # so many of them stand in the messages
        self._messages: list[dict[str, Any]] = []
        self._asked = 0
        self._warned = False

    def show(self, pictures: Sequence[Any]) -> None:
        """Begins anew with pictures, or without one. Raises DataError where they don't fit; all stays as it was then."""
        self._engine.require_room(len(pictures))
        self._seen = [self._engine.encode_image(picture) for picture in pictures]
        self._warn()
        self.reset()

    def add(self, picture: Any) -> None:
        """One more picture, which stands with the next question. Raises as `show`."""
        self._engine.require_room(len(self._seen) + 1)
        self._seen.append(self._engine.encode_image(picture))
        self._warn()

    def reset(self) -> None:
        """Forgets what was said; the pictures stay, for the next question."""
        self._messages, self._placed = [], 0

    @property
    def _features(self) -> Floats | None:
        from switchkd.runtime.engines.picture_places import join_features

        return join_features(self._seen)

    def _warn(self) -> None:
        told = self._engine.unfamiliar(len(self._seen))
        if told and not self._warned:
            click.echo(told, err=True)
            self._warned = True

    def ask(self, text: str) -> None:
        """Prints the answer as it is generated, and keeps both."""
        self._messages.append(_question(text, pictures=len(self._seen) - self._placed))
        self._placed = len(self._seen)
        sampling = self._sampling.numbered(self._asked)
        self._asked += 1
        said = self._chosen(sampling) if self._choices else "".join(self._pieces(sampling))
        self._messages.append({"role": "assistant", "content": said})

    def _pieces(self, sampling: Sampling) -> Iterator[str]:
        for piece in self._engine.generate(
            self._messages,
            self._features,
            max_new_tokens=self._max_tokens,
            sampling=sampling,
            grammar=self._grammar,
        ):
            click.echo(piece, nl=False)
            yield piece
        click.echo()

    def _chosen(self, sampling: Sampling) -> str:
        from switchkd.runtime.engines.choices import weigh

        assert self._choices is not None
        ids = self._engine.encode_prompt(self._messages)
        weighed = weigh(self._engine, self._messages, ids, self._features, self._choices)
        text, _ = weighed.choose(sampling)
        click.echo(text)
        for choice, probability in sorted(weighed.probabilities.items(), key=lambda pair: -pair[1]):
            click.echo(f"{probability:8.4f}  {choice}")
        return text


def _converse(conversation: Conversation) -> None:
    """Questions from the terminal; an empty line or the input's end ends it."""
    from switchkd.errors import DataError

    click.echo("Ask; /help lists what else there is, an empty line ends.", err=True)
    read = _line_reader()
    while line := read():
        try:
            if any("\ud800" <= letter <= "\udfff" for letter in line):
                click.echo("That isn't UTF-8, so it can't be read; ask again.", err=True)
            elif line.startswith("/"):
                _obey(conversation, line)
            else:
                conversation.ask(line)
        except DataError as error:
            if not line.startswith("/"):
                raise
            click.echo(error, err=True)


def _obey(conversation: Conversation, line: str) -> None:
    """A line that is a command. Raises DataError where it can't be followed."""
    command, _, argument = line.partition(" ")
    if command == "/image" and argument:
        conversation.show([_open(Path(argument.strip()).expanduser())])
        click.echo("The conversation begins anew with this picture.", err=True)
    elif command == "/add" and argument:
        conversation.add(_open(Path(argument.strip()).expanduser()))
        click.echo("The next question is about this picture too.", err=True)
    elif command == "/reset" and not argument:
        conversation.reset()
        click.echo("Forgotten.", err=True)
    else:
        click.echo(_HELP, err=True)


def _line_reader() -> Callable[[], str]:
    """Reads a line, without its surrounding white space; at a terminal with editing, and what was typed before by the
    arrow keys."""

    def from_terminal() -> str:
        try:
            return input("> ").strip()
        except EOFError:
            return ""

    def from_stream() -> str:
        click.echo("> ", nl=False, err=True)
        return sys.stdin.readline().strip()

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return from_stream
    with contextlib.suppress(ImportError):  # Windows' terminal has its own
        import readline  # noqa: F401  (`input` uses it)
    return from_terminal


def _open(path: Path) -> Any:
    from switchkd.pictures import open_image

    return open_image(path)


def _read_choices(text: str) -> list[str]:
    """Of `A,B` or a JSON list of texts."""
    texts = text.split(",")
    if text.lstrip().startswith("["):
        try:
            texts = json.loads(text)
        except ValueError as error:
            raise click.BadParameter("it begins like a JSON list and isn't one.", param_hint="--choices") from error
    if not all(isinstance(each, str) and each.strip() for each in texts):
        raise click.BadParameter("no choice may be empty, and all are texts.", param_hint="--choices")
    texts = [each.strip() for each in texts]
    if len(set(texts)) < len(texts):
        raise click.BadParameter("a choice stands there twice.", param_hint="--choices")
    return texts


def _read_schema(path: Path) -> Mapping[str, Any]:
    from switchkd.errors import DataError
    from switchkd.files import read_json

    try:
        schema = read_json(path, DataError)
    except FileNotFoundError as error:
        raise DataError(f"{path} isn't there; --schema names a file with a JSON schema.") from error
    if not isinstance(schema, Mapping):
        raise DataError(f"{path} holds no JSON schema: an object.")
    return schema


def _question(text: str, *, pictures: int) -> dict[str, Any]:
    """The question's message with the pictures that it brings, in front of its words as in training, also where the text has
    places for them."""
    from switchkd.data.talks import MARKER
    from switchkd.runtime.engines.picture_order import marked_question, picture_first

    plain = {"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]}
    if not (places := text.count(MARKER)):
        return plain
    if places != pictures:
        there = f"this question brings {pictures}" if pictures else "this question brings none: name one with --image"
        click.echo(f"{MARKER} stands for a picture, and {there}; it is read as plain text here.", err=True)
        return plain
    parts = marked_question(text)
    if (first := picture_first(parts)) != parts:
        one = pictures == 1
        click.echo(
            f"The picture{'' if one else 's'} go{'es' if one else ''} before the words, as in training.", err=True
        )
    return {"role": "user", "content": first}
