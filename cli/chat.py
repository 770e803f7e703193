"""`skd chat`: ask an exported student, or a checkpoint, about a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from switchkd.cli.options import RUN, find_named

if TYPE_CHECKING:
    from switchkd.runtime.engines.engine import Engine, Floats


@click.command("chat", short_help="Ask a student about pictures.")
@click.argument("variant")
@click.option("--image", type=click.Path(path_type=Path), help="Picture to talk about.")
@click.option("--prompt", help="One question. Without it, questions are read line by line until the input ends.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads. Default: all.")
@click.option("--device", default="cpu", show_default=True, help="Where an ONNX export runs; `skd doctor` lists them.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@RUN
def chat_command(
    variant: str,
    image: Path | None,
    prompt: str | None,
    threads: int | None,
    device: str,
    max_tokens: int,
    run_name: str | None,
) -> None:
    """Ask VARIANT: an export folder, the name of one of a run's exports (also as RUN/NAME), or a checkpoint (a folder, or its
    name on the hub).

    The answer appears as it is generated.
    """
    from switchkd.pictures import open_image
    from switchkd.runtime.engines.opening import open_engine

    picture = open_image(image) if image else None
    with open_engine(find_named(variant, run_name), threads=threads, device=device) as engine:
        features = None if picture is None else engine.encode_image(picture)
        if prompt is not None:
            _ask(engine, [_question(prompt, with_picture=picture is not None)], features, max_tokens)
            return
        _converse(engine, features, max_tokens)


def _converse(engine: Engine, features: Floats | None, max_tokens: int) -> None:
    """Questions from the terminal, each with all that was said before; an empty line or the input's end ends it."""
    messages: list[dict[str, Any]] = []
    click.echo("Ask; an empty line ends.", err=True)
    while True:
        click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        if any("\ud800" <= letter <= "\udfff" for letter in line):
            click.echo("That isn't UTF-8, so it can't be read; ask again.", err=True)
            continue
        messages.append(_question(line, with_picture=features is not None and not messages))
        messages.append({"role": "assistant", "content": _ask(engine, messages, features, max_tokens)})


def _ask(engine: Engine, messages: list[dict[str, Any]], features: Floats | None, max_tokens: int) -> str:
    pieces = []
    for piece in engine.generate(messages, features, max_new_tokens=max_tokens):
        click.echo(piece, nl=False)
        pieces.append(piece)
    click.echo()
    return "".join(pieces)


def _question(text: str, *, with_picture: bool) -> dict[str, Any]:
    """The question's message, the picture in front of its words as in training, also where the text has a place for it."""
    from switchkd.data.talks import MARKER
    from switchkd.runtime.engines.picture_order import marked_question, picture_first

    if MARKER not in text:
        picture = [{"type": "image"}] if with_picture else []
        return {"role": "user", "content": [*picture, {"type": "text", "text": text}]}
    if not with_picture or text.count(MARKER) > 1:
        reason = "a conversation has one" if with_picture else "there is none: name one with --image"
        click.echo(f"{MARKER} stands for a picture, and {reason}; it is read as plain text here.", err=True)
        return {"role": "user", "content": [{"type": "image"}] * with_picture + [{"type": "text", "text": text}]}
    parts = marked_question(text)
    if (first := picture_first(parts)) != parts:
        click.echo("The picture goes before the words, as in training.", err=True)
    return {"role": "user", "content": first}
