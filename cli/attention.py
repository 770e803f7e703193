"""`skd attention`: where models look for their answers."""

from __future__ import annotations

from pathlib import Path

import click

from switchkd.cli.options import RUN


@click.command("attention", short_help="Draw where models look.")
@click.argument("models", nargs=-1)
@click.option("--image", type=click.Path(path_type=Path), required=True, help="Picture to ask about.")
@click.option("--prompt", required=True, help="Question about it.")
@click.option("--layer", type=int, help="One layer of the language model, from 0; -1 is the last. Default: their mean.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: attention.png among the run's reports.")
@RUN
def attention_command(
    models: tuple[str, ...], image: Path, prompt: str, layer: int | None, out: Path | None, run_name: str | None
) -> None:
    """Draw where MODELs look: attention of the answer's first position to the picture, one panel a model.

    Bare, it draws the run's teacher and students side by side.
    """
    from rich.console import Console

    from switchkd.analysis.attention import attend, draw_attention
    from switchkd.analysis.report import named_models
    from switchkd.run_page import refresh_page
    from switchkd.runs import RUNS, existing_run, latest_run

    run = existing_run(run_name)
    folders = named_models(models, run)
    attended = {name: attend(folder, image, prompt, layer) for name, folder in folders.items()}
    if out is None:
        run = run or (latest_run() if (RUNS / "latest").exists() else None)
        out = Path("attention.png") if run is None else run / "reports" / "attention.png"
    draw_attention(attended, prompt, out)
    refresh_page(out)
    console = Console(soft_wrap=True, highlight=False)
    for name, each in attended.items():
        console.print(f"{name}: {each.answer}", markup=False)
    console.print(f"written to {out}", markup=False)
