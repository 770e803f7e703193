"""`skd recipe`: what a recipe says, and every setting there is."""

from __future__ import annotations

import click

from switchkd.cli.options import refuse_options


@click.command("recipe", short_help="Show a recipe's settings.")
@click.argument("name", required=False)
@click.option(
    "--diff",
    "other",
    is_flag=False,
    flag_value="",
    metavar="[OTHER]",
    help="Print only what differs from recipe OTHER; without OTHER, from the recipe that NAME extends, or from the defaults.",
)
def recipe_command(name: str | None, other: str | None) -> None:
    """Print recipe NAME (shipped, or a YAML file) with every default filled in; without NAME, all settings explained."""
    from rich.console import Console
    from rich.table import Table

    from switchkd.losses.terms import extra_names, extra_term
    from switchkd.recipes.difference import difference
    from switchkd.recipes.reader import load_recipe, recipe_names
    from switchkd.recipes.recipe import Recipe
    from switchkd.recipes.settings import explain, to_plain

    if name is not None:
        import yaml

        told = to_plain(load_recipe(name)) if other is None else difference(name, other)
        click.echo(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), nl=False)
        return
    refuse_options(["other"], "goes with the name of a recipe alone.")
    table = Table(title=f"Settings; shipped recipes: {', '.join(recipe_names())}", title_justify="left")
    for column in ("setting", "default", "meaning"):
        table.add_column(column, overflow="fold")
    extra = [(term.setting, "0.0", term.meaning) for term in map(extra_term, extra_names())]
    for key, default, meaning in explain(Recipe) + extra:
        table.add_row(key, default, meaning)
    Console().print(table)
