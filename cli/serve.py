"""`skd serve`: an exported student behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

from typing import Any

import click

from switchkd.cli.options import POSITIVE, RUN, find_named, sampling_options


@click.command("serve", short_help="Answer chat requests over HTTP.")
@click.argument("variant")
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
    metavar="NAME",
    help="Another name that requests may call the model by; repeat it.",
)
@click.option(
    "--strict/--lenient",
    default=False,
    show_default=True,
    help="Refuse a request's fields that aren't known, or tell the log of each name once.",
)
@sampling_options
def serve_command(
    variant: str,
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
    **sampling: Any,
) -> None:
    """Answer chat requests with VARIANT: an export folder, the name of one of a run's exports (also as RUN/NAME), or a checkpoint
    (a folder, or its name on the hub).

    The address speaks the chat part of OpenAI's API, pictures included, and answers one request at a time. The settings
    of how tokens are drawn, from --temperature on, hold where a request doesn't say. Ctrl-C or SIGTERM ends it after the
    requests that have arrived.
    """
    from switchkd.runtime.server.ending import EndOnSignal

    with EndOnSignal() as ending:
        from switchkd.runtime.engines.opening import open_engine
        from switchkd.runtime.engines.sampling import Sampling
        from switchkd.runtime.server.identity import Identity
        from switchkd.runtime.server.limits import Limits
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
        folder = find_named(variant, run_name)
        identity = Identity.of(folder)
        rules = Rules(
            names=tuple(dict.fromkeys((identity.name, *aliases))),
            pictures_first=picture_order == "first",
            sampling=Sampling(**sampling),
            strict=strict,
        )
        with open_engine(folder, threads=threads, context=context, device=device) as engine:
            serve(
                engine,
                (host, port),
                limits,
                lambda url: click.echo(f"{identity.name} answers at {url}"),
                ending,
                rules,
                identity,
            )
