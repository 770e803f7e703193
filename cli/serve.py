"""`skd serve`: exported students behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

from typing import Any

import click

from switchkd.cli.options import POSITIVE, RUN, find_named, sampling_options


@click.command("serve", short_help="Answer chat requests over HTTP.")
@click.argument("variants", nargs=-1, required=True, metavar="VARIANT...")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. There is no access control."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads. Default: all.")
@click.option("--device", default="cpu", show_default=True, help="Where an ONNX export runs; `skd doctor` lists them.")
@click.option(
    "--context", type=click.IntRange(min=1), default=4096, show_default=True, help="Most tokens of prompt and answer."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Longest answer where the request doesn't say.",
)
@click.option(
    "--queue", type=click.IntRange(min=0), default=8, show_default=True, help="Requests that may wait; more get 429."
)
@click.option(
    "--timeout",
    type=POSITIVE,
    default=120,
    show_default=True,
    help="Seconds for an answer, waiting included; then 504.",
)
@click.option(
    "--upload-timeout",
    type=POSITIVE,
    default=10,
    show_default=True,
    help="Seconds for a request to arrive; then 408.",
)
@click.option(
    "--max-request-mb",
    type=POSITIVE,
    default=20,
    show_default=True,
    help="Largest request, all its pictures included; larger ones get 413.",
)
@click.option(
    "--max-pictures",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Most pictures of a conversation; more get 400.",
)
@click.option(
    "--max-picture-mb",
    type=POSITIVE,
    default=10,
    show_default=True,
    help="Largest picture file; larger ones get 413.",
)
@click.option(
    "--max-megapixels",
    type=POSITIVE,
    default=25,
    show_default=True,
    help="Largest picture, width × height; larger ones get 422.",
)
@click.option(
    "--picture-order",
    type=click.Choice(["first", "sent"]),
    default="first",
    show_default=True,
    help="first: pictures go before the words of their message, as in training. sent: where the request has them.",
)
@RUN
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="[NAME=]ALIAS",
    help="Another name that requests may call the first VARIANT by, or the one called NAME; repeat it.",
)
@click.option(
    "--strict/--lenient",
    default=False,
    show_default=True,
    help="Refuse a request's fields that aren't known, or tell the log of each name once.",
)
@click.option("--page/--no-page", default=True, show_default=True, help="A chat page for browsers at /.")
@sampling_options
def serve_command(
    variants: tuple[str, ...],
    host: str,
    port: int,
    threads: int | None,
    device: str,
    context: int,
    max_tokens: int,
    queue: int,
    timeout: float,
    upload_timeout: float,
    max_request_mb: float,
    max_pictures: int,
    max_picture_mb: float,
    max_megapixels: float,
    picture_order: str,
    run_name: str | None,
    aliases: tuple[str, ...],
    strict: bool,
    page: bool,
    **sampling: Any,
) -> None:
    """Answer chat requests with each VARIANT: an export folder, the name of one of a run's exports (also as RUN/NAME), or a
    checkpoint (a folder, or its name on the hub).

    The address speaks the chat part of OpenAI's API, pictures included, and answers one request at a time; a request's
    model chooses among several variants, and the first is the usual one. The settings of how tokens are drawn, from
    --temperature on, hold where a request doesn't say. Ctrl-C or SIGTERM ends it after the requests that have arrived.
    """
    from switchkd.runtime.server.ending import EndOnSignal

    with EndOnSignal() as ending:
        from switchkd.runtime.engines.sampling import Sampling
        from switchkd.runtime.server.limits import Limits
        from switchkd.runtime.server.models import open_models
        from switchkd.runtime.server.request import Rules
        from switchkd.runtime.server.request_log import log_to_stderr
        from switchkd.runtime.server.serve import serve

        limits = Limits(
            waiting=queue,
            request_bytes=round(max_request_mb * 1e6),
            pictures=max_pictures,
            picture_bytes=round(max_picture_mb * 1e6),
            picture_pixels=round(max_megapixels * 1e6),
            upload_seconds=upload_timeout,
            request_seconds=timeout,
            max_tokens=max_tokens,
        )

        log_to_stderr()
        found = [(variant, find_named(variant, run_name)) for variant in variants]
        with open_models(found, aliases, threads=threads, context=context, device=device) as models:
            own = [model.identity.name for model in models.all]
            rules = Rules(
                names=models.names,
                pictures_first=picture_order == "first",
                sampling=Sampling(**sampling),
                strict=strict,
            )

            def ready(url: str) -> None:
                chat = f"\nchat page: {url.removesuffix('v1')}" if page else ""
                click.echo(f"{' and '.join(own)} answer{'s' if len(own) == 1 else ''} at {url}{chat}")

            serve(models, (host, port), limits, ready, ending, rules, page=page)
