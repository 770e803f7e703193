"""`skd import`: models in other projects' layouts."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import", short_help="Take in a model of another layout.")
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--vision", help="Tower, where SOURCE only names its own: a folder or a hub name.")
@click.option(
    "--tokenizer", help="Tokenizer, where SOURCE brings none: a folder or a hub name. Usually its language model's."
)
@click.option(
    "--template",
    help="Form of chats: chatml, chatml-system, tinyllava or vicuna. Default: the one that the layout's models were trained with.",
)
@click.option("--end-token", help="Token that ends an answer. Default: the tokenizer's end token.")
@click.option("--force", is_flag=True, help="Replace TARGET where it exists.")
def import_command(
    source: str,
    target: Path,
    vision: str | None,
    tokenizer: str | None,
    template: str | None,
    end_token: str | None,
    force: bool,
) -> None:
    """Turn SOURCE, a model of TinyLLaVA Factory, LLaVA-1.5, MobileVLM or another layout, into the model folder TARGET.

    The new folder is compared with its source before it gets its name.

    \b
    skd import tinyllava/TinyLLaVA-Qwen2.5-3B-SigLIP models/teacher --tokenizer Qwen/Qwen2.5-3B
    skd import liuhaotian/llava-v1.5-7b models/llava --vision openai/clip-vit-large-patch14-336
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from switchkd.architecture.references import resolve_checkpoint
    from switchkd.chat_template import shipped_template
    from switchkd.errors import SkdError

    if target.exists() and not force:
        raise SkdError(f"{target} exists already; choose another folder or add --force.")
    if template is not None:
        shipped_template(template)  # refuses an unknown one
    folder = resolve_checkpoint(source, pickles=True)
    tower, words = (None if name is None else resolve_checkpoint(name, pickles=True) for name in (vision, tokenizer))

    from switchkd.importing.importer import ImportRequest, run_import
    from switchkd.models.environment import quiet

    quiet()
    console = Console()
    with console.status("reading the source") as status:
        imported = run_import(ImportRequest(folder, target, tower, words, template, end_token), status.update)
    table = Table(title=escape(str(target)), title_justify="left", box=SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for what, how in imported.rows:
        table.add_row(what, escape(how))
    console.print(table)
