"""`skd known-answer`: what `skd install` asks a new release, by its `run`, before it switches to it."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command("known-answer", hidden=True, short_help="Ask a release the question that it was packed with.")
@click.argument("variant", type=click.Path(path_type=Path))
def known_answer_command(variant: Path) -> None:
    """Ask VARIANT, of a release, its known question. Ends with 1 where it can't be run here or answers otherwise."""
    from switchkd.computer import usable_processors
    from switchkd.manifest import Manifest
    from switchkd.runtime.engines.opening import open_engine, require_known_format
    from switchkd.runtime.engines.versions import require_runtimes
    from switchkd.runtime.packages.question import KnownQuestion

    question = KnownQuestion.load(variant.resolve().parent)
    manifest = Manifest.load(variant, verify=False)  # `skd install` has compared all hashes by now
    require_known_format(manifest, variant)
    require_runtimes(manifest)
    # A server may run beside: it keeps half of the processors, and goes first on the others.
    os.nice(19)
    with open_engine(variant, threads=max(1, usable_processors() // 2), verify=False) as engine:
        question.hold(engine)
    click.echo("It answers as it did where it was packed.")
