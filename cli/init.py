"""`skd init`: a LLaVA model from a vision and a language checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class _InitCommand(click.Command):
    """Its options tell of all projectors, also those from outside, which are looked for when it is called."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from switchkd.architecture.families import known
        from switchkd.architecture.family import Projector

        families = known(Projector)
        options = {each.name: each for each in self.params if isinstance(each, click.Option)}
        options["projector"].type = click.Choice([each.name for each in families])
        listed = "; ".join(f"{each.name}: {each.title}" for each in families)
        options["projector"].help = f"Family of the new projector. {listed}."
        for setting, what in _SETTINGS.items():
            having = [f"{each.name} ({each.defaults[setting]})" for each in families if setting in each.defaults]
            options[setting].help = f"{what}. Of, with the default: {', '.join(having)}."
        return super().get_params(ctx)


# Settings of projectors that have an option of their own.
_SETTINGS = {
    "projector_factor": "Patches along each side of a square that become one token",
    "projector_layers": "Layers of the projector",
}


@click.command("init", cls=_InitCommand, short_help="Put a tower and a language model together.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--vision", required=True, help="SigLIP or CLIP checkpoint: folder, hub name, or a shape with --random.")
@click.option("--language", required=True, help="Language model: folder, hub name, or a shape with --random.")
@click.option("--tokenizer", help="Folder or hub name of a tokenizer. Default: the language checkpoint's.")
@click.option(
    "--feature-layer",
    type=int,
    default=-1,
    show_default=True,
    help="Block of the tower whose result is read, from 1, or from the end, -1 the last.",
)
@click.option(
    "--feature-select",
    type=click.Choice(["default", "full"]),
    help="default: without the tower's first token, which in CLIP is none of the picture's patches; full: all of its tokens. "
    "Default: every patch and nothing else.",
)
@click.option("--projector", default="mlp", show_default=True)
@click.option("--projector-factor", type=int)
@click.option("--projector-layers", type=int)
@click.option(
    "--template",
    help="Form of chats: chatml, chatml-system, tinyllava or vicuna. Default: chatml where the tokenizer has its tokens, else "
    "vicuna.",
)
@click.option(
    "--pictures",
    type=click.Choice(["pad"]),
    help="pad: paste them on a square of the mean's colour first. Default: as the vision checkpoint's own processor does.",
)
@click.option("--random", is_flag=True, help="Random weights: --vision and --language name configurations.")
@click.option("--shrink", is_flag=True, help="With --random: the same architecture, a few thousand times smaller.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random weights and of the new projector.")
@click.option("--force", is_flag=True, help="Replace FOLDER where it exists.")
def init_command(
    folder: Path,
    vision: str,
    language: str,
    tokenizer: str | None,
    feature_layer: int,
    feature_select: str | None,
    projector: str,
    projector_factor: int | None,
    projector_layers: int | None,
    template: str | None,
    pictures: str | None,
    random: bool,
    shrink: bool,
    seed: int,
    force: bool,
) -> None:
    """Put a vision tower and a language model together as a LLaVA model in FOLDER, with a new projector.

    \b
    skd init students/0.5b --vision google/siglip-so400m-patch14-384 --language Qwen/Qwen2.5-0.5B
    skd init students/tiny --random --shrink --vision siglip-so400m-patch14-384 --language qwen2.5-0.5b
    skd init students/mobile --vision openai/clip-vit-large-patch14-336 --language Qwen/Qwen2.5-1.5B-Instruct --projector ldpv2
    """
    from switchkd.errors import SkdError

    if folder.exists() and not force:
        raise SkdError(f"{folder} exists already; choose another folder or add --force.")
    if shrink and not random:
        raise SkdError("--shrink makes a smaller architecture, for which there are no weights: add --random.")

    from switchkd.chat_template import shipped_template
    from switchkd.models.environment import quiet
    from switchkd.models.init import from_checkpoints, from_shapes
    from switchkd.models.vlm import save_vlm

    if template:
        shipped_template(template)  # refuses an unknown one
    quiet()
    given = {"projector_factor": projector_factor, "projector_layers": projector_layers}
    settings: dict[str, Any] = {
        "feature_layer": feature_layer,
        "feature_select": feature_select,
        "projector": projector,
        "projector_settings": {name: value for name, value in given.items() if value is not None},
        "template": template,
        "pictures": pictures,
        "seed": seed,
    }
    if random:
        vlm, processor = from_shapes(vision, language, tokenizer, shrink=shrink, **settings)
    else:
        vlm, processor = from_checkpoints(vision, language, tokenizer, **settings)
    save_vlm(vlm, folder, processor)
    parameters = sum(parameter.numel() for parameter in vlm.parameters())
    click.echo(f"{folder}: {parameters / 1e6:.1f} million parameters, image token {processor.image_token!r}")
