"""`skd export`: a checkpoint as a folder that a small computer runs, proved equal to its source."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from switchkd.cli.options import FOLLOW_LINKS, refuse_options

if TYPE_CHECKING:
    from rich.console import Console

    from switchkd.hardware.runtimes import Format
    from switchkd.manifest import Manifest


_TINYLLAVA = "tinyllava"  # no file that an engine runs: for Factory's own evaluation
_WITHOUT_MEANING = ("quant", "vision_quant", "calibrate", "samples", "data", "images", "follow_links", "threads")


class _ExportCommand(click.Command):
    """Its options tell of all formats, also those from outside, which are looked for when it is called."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from switchkd.runtime.engines.formats import known_formats

        formats = known_formats()
        options = {each.name: each for each in self.params if isinstance(each, click.Option)}
        options["format"].type = click.Choice([*formats, _TINYLLAVA])
        options["format"].help = f"File format; {_mixed(formats)}; {_TINYLLAVA}: weights in TinyLLaVA Factory's layout."
        options["quant"].help = f"Precision of the language model. {_offered(formats, 'language', 'quants')}."
        seeing = _offered(formats, "vision", "vision_quants")
        options["vision_quant"].help = f"Precision of tower and projector. {seeing}."
        return super().get_params(ctx)


def _mixed(known: Mapping[str, Format]) -> str:
    """The formats whose parts are of two kinds."""
    mixed = (each for each in known.values() if each.vision != each.language)
    return "; ".join(f"{each.name}: vision in {each.vision}, language model in {each.language}" for each in mixed)


def _offered(known: Mapping[str, Format], part: str, quants: str) -> str:
    """The precisions of a part, by the formats that have them."""
    from switchkd.runtime.engines.formats import known_runtimes

    offers = []
    for name, runtime in known_runtimes().items():
        formats = [each.name for each in known.values() if getattr(each, part) == name]
        listed = (f"{quant} ({remark})" if remark else quant for quant, remark in getattr(runtime, quants).items())
        offers.append(f"{', '.join(formats)}: {', '.join(listed)}")
    return "; ".join(offers)


@click.command("export", cls=_ExportCommand, short_help="Make a verified file for a small computer.")
@click.argument("checkpoint", required=False)
@click.option("--format", default="gguf", show_default=True)
@click.option("--quant", default="q4", show_default=True)
@click.option("--vision-quant")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    help="LLaVA JSON with pictures and text to quantize by: an importance matrix in gguf, the ranges of pictures in onnx.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Records read from --calibrate, and questions asked from --data.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Questions to compare on: LLaVA JSON. Default: the run's test split, else what the model writes itself.",
)
@click.option(
    "--images", type=click.Path(path_type=Path), help="Picture folder. Default: images/ beside each data file."
)
@FOLLOW_LINKS
@click.option(
    "--out", type=click.Path(path_type=Path), help="Export folder. Default: exports/NAME-FORMAT-QUANT of the run."
)
@click.option("--run", "run_name", help="The run whose student is exported. Default: the newest.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads. Default: all.")
@click.option("--force", is_flag=True, help="Replace an existing export folder.")
def export_command(
    checkpoint: str | None,
    format: str,
    quant: str,
    vision_quant: str | None,
    calibrate: Path | None,
    samples: int,
    data: Path | None,
    images: Path | None,
    follow_links: bool,
    out: Path | None,
    run_name: str | None,
    threads: int | None,
    force: bool,
) -> None:
    """Turn CHECKPOINT (a folder, RUN/student, or a model's name on the hub) into a complete, quantized, verified folder.

    Bare, it takes the newest run's student. Before anything is kept, the export is compared with the checkpoint stage by
    stage; one that differs is not written.
    """
    from rich.console import Console
    from rich.markup import escape

    from switchkd.architecture.references import model_name, resolve_checkpoint
    from switchkd.export.folder import ExportRequest, run_export
    from switchkd.export.samples import SampleFile
    from switchkd.run_page import refresh_page
    from switchkd.runs import existing_run, find_in_runs, latest_run, run_of

    console = Console()
    run = existing_run(run_name)
    checkpoint = find_in_runs(checkpoint, run) if checkpoint else None
    run = run or (run_of([checkpoint]) if checkpoint else latest_run())
    source = resolve_checkpoint(checkpoint) if checkpoint else _student(run)
    if format == _TINYLLAVA:
        refuse_options(_WITHOUT_MEANING, f"has no meaning with --format {_TINYLLAVA}.")
        out = out or (run or Path()) / "exports" / f"{model_name(source)}-{format}"
        _write_tinyllava(console, source, out, force)
        refresh_page(out)
        return
    out = out or (run or Path()) / "exports" / f"{model_name(source)}-{format}-{quant}"
    data, data_images = (data, images) if data or run is None else _test_split(run)
    left_out: list[str] = []
    reading: dict[str, Any] = {"follow_links": follow_links, "leave_out": left_out.append}
    request = ExportRequest(
        checkpoint=source,
        out=out,
        format=format,
        quant=quant,
        vision_quant=vision_quant,
        calibration=SampleFile(calibrate, images or calibrate.parent / "images", **reading).conversations(samples)
        if calibrate
        else (),
        held_out=SampleFile(data, data_images or data.parent / "images", **reading).questions(samples) if data else (),
        force=force,
        threads=threads,
    )
    if left_out:
        console.print(
            f"[yellow]warning[/]: {len(left_out)} records of --calibrate and --data were left out; the first: "
            f"{escape(left_out[0])}"
        )
    with console.status("reading the checkpoint") as status:
        manifest = run_export(request, progress=status.update)
    refresh_page(out)
    _show(console, out, manifest)


def _write_tinyllava(console: Console, source: Path, out: Path, force: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from switchkd.export.tinyllava import write_tinyllava
    from switchkd.models.environment import quiet

    quiet()
    with console.status("reading the checkpoint") as status:
        rows = write_tinyllava(source, out, force=force, progress=status.update)
    table = Table(title=escape(str(out)), title_justify="left", box=SIMPLE_HEAD, show_header=False)
    for what, how in rows:
        table.add_row(what, escape(how))
    console.print(table)
    console.print("Its config.json names this place: export anew where it is to lie.")


def _student(run: Path | None) -> Path:
    from switchkd.errors import SkdError

    if run is None or not (run / "student").exists():
        raise SkdError(f"The run {run} has no student yet: `skd distill` makes one; or name a checkpoint.")
    return run / "student"


def _test_split(run: Path) -> tuple[Path | None, Path | None]:
    """The run's own test questions, where it has some."""
    from switchkd.errors import SkdError
    from switchkd.runs import recorded_questions

    try:
        return recorded_questions(run, "test")
    except (SkdError, OSError):
        return None, None


_TOO_LONG = {
    "too_long": "questions were left out: with an answer they are longer",
    "calibration_too_long": "records of --calibrate were left out: they are longer",
}


def _show(console: Console, out: Path, manifest: Manifest) -> None:
    from rich.table import Table

    files = Table(title=f"{out}", title_justify="left")
    files.add_column("file")
    files.add_column("MB", justify="right")
    files.add_column("tensors by their real type")
    for name, entry in manifest.files.items():
        types = ", ".join(
            f"{kind} {count.count} ({count.bytes / 1e6:.1f} MB)" for kind, count in entry.tensor_types.items()
        )
        files.add_row(name, f"{entry.bytes / 1e6:.1f}", types)
    console.print(files)
    proof = Table(title="against the checkpoint", title_justify="left")
    for column in ("what", "measured", "allowed"):
        proof.add_column(column, justify="left" if column == "what" else "right")
    for row in _proof_rows(manifest.parity):
        proof.add_row(*row)
    console.print(proof)
    for name, what in _TOO_LONG.items():
        if left_out := manifest.parity[name]:
            console.print(f"[yellow]warning[/]: {left_out} {what} than the context")
    console.print(_beside(out), highlight=False, markup=False, soft_wrap=True)


def _beside(out: Path) -> str:
    """Which other exports of its run it stands beside now, with the command that measures them."""
    from switchkd.runs import run_of

    run = run_of([out])
    if run is None:
        return f"How fast it is: `skd bench {shlex.quote(str(out))}`."
    others = [path.name for path in sorted((run / "exports").glob("[!.]*")) if path.is_dir() and path.name != out.name]
    beside = f"It stands beside {', '.join(others)}" if others else "It is the first export of its run"
    return f"{beside}; `skd bench --run {run.name}` measures {'them all' if others else 'it'} and says which to ship."


def _proof_rows(parity: dict[str, Any]) -> list[tuple[str, str, str]]:
    stages, loss = parity["stages"], parity["loss"]
    precision = "/".join(sorted(set(stages["precision"].values())))
    rows = [
        (f"{stage}, relative error in {precision}", f"{error:.1e}", f"{stages['tolerance'][stage]:.0e}")
        for stage, error in stages["error"].items()
    ]
    rows.append(
        (f"greedy tokens equal in {precision}", f"{stages['tokens'] - stages['ties']}/{stages['tokens']}", "near ties")
    )
    judged = {name: f"{verdict['allowed']:.1e}" for name, verdict in parity["judged"].items()}
    along = "own words" if "own words" in judged else "answers"
    rows.append((f"mean KL of {along}, nats", f"{loss['kl_mean']:.2e}", judged.get(along) or judged["questions"]))
    rows.append((f"same first choice in {along}", f"{100 * loss['top1']:.1f} %", ""))
    rows += _text_rows(parity["text"], judged.get("text"))
    if "questions" in loss:
        before, after = 100 * loss["reference_accuracy"], 100 * loss["accuracy"]
        rows.append((f"right of {loss['questions']} questions, before → after", f"{before:.1f} → {after:.1f} %", ""))
    if len(parity.get("candidates", {})) > 1:
        rows += [
            (
                f"largest mean KL {note or 'as usual'}",
                f"{max(tried.values()):.2e}",
                "taken" if note == parity["chosen"] else "",
            )
            for note, tried in parity["candidates"].items()
        ]
    return rows


def _text_rows(text: dict[str, Any], allowed: str | None) -> list[tuple[str, str, str]]:
    """What is told of the page of text; where the model can't read it, that alone."""
    if allowed is None:
        return [("page of text", "can't be read", "")]
    before, after = text["reference_perplexity"], text["perplexity"]
    return [
        (f"mean KL on {text['positions']:,} tokens of text, nats", f"{text['kl_mean']:.2e}", allowed),
        ("same first choice on text", f"{100 * text['top1']:.1f} %", ""),
        ("perplexity of text, before → after", f"{before:.4g} → {after:.4g}", ""),
    ]
