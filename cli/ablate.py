"""`skd ablate`: students that differ in one thing, from several seeds."""

from __future__ import annotations

import click

from switchkd.cli.options import open_run, run_options


@click.command("ablate", short_help="Compare losses and schemes from several seeds.")
@click.option(
    "--rows",
    default="losses",
    show_default=True,
    help="`losses` (tables 3 and 4), `schemes` (table 5), or names with commas, e.g. sft,dbild-rkl,dbild-rkl+switch.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Students of each row.")
@click.option(
    "--split", type=click.Choice(["test", "validation"]), default="test", show_default=True, help="Questions."
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Students trained at once.")
@run_options
def ablate_command(
    rows: str,
    seeds: int,
    split: str,
    jobs: int,
    recipe: str,
    overrides: tuple[str, ...],
    run_name: str | None,
    nproc: int | None,
    resume: bool,
) -> None:
    """Compare training methods: every row from every seed with equal steps and data, one teacher for all.

    Rows without the switch take the recipe's stage `kd` in the place of `dft` where it has one: a rate of the tower that suits
    the switch may not suit them.

    Can be interrupted and started again. Writes reports/ablation-SPLIT.json, .md and .png into the run's folder.
    """
    from rich.markdown import Markdown

    from switchkd.analysis.ablation import LOSSES, SCHEMES, draw_ablation, markdown_table, run_ablation
    from switchkd.files import write_text
    from switchkd.run_page import write_page

    if nproc and jobs > 1:
        raise click.UsageError(
            "--nproc spreads one student over processes, --jobs trains several at once: give one of them."
        )
    run = open_run(recipe, overrides, run_name, nproc, resume)
    names = {"losses": LOSSES, "schemes": SCHEMES}.get(rows) or tuple(name.strip() for name in rows.split(","))
    first_seed = run.recipe.seed
    summary = run_ablation(run, names, tuple(range(first_seed, first_seed + seeds)), split=split, jobs=jobs)
    reports = run.folder / "reports"
    table = markdown_table(summary)
    write_text(reports / f"ablation-{split}.md", table)
    draw_ablation(summary, reports / f"ablation-{split}.png")
    run.succeeded()
    write_page(run.folder)
    run.console.print(Markdown(table))
    run.console.print(f"written to {reports}/ablation-{split}.json, .md and .png")
