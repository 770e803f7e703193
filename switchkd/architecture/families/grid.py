"""What the projectors share that make fewer tokens out of the grid of a picture's patches."""

from __future__ import annotations

from switchkd.architecture.family import Refusal, Settings

FACTOR = "projector_factor"  # the setting: by how much they shorten the grid's sides
LAYERS = "projector_layers"
_FACTORS = (2, 3, 4)


def tokens(settings: Settings) -> int:
    """Of a grid with shorter sides."""
    return (settings["grid"] // settings[FACTOR]) ** 2


def one_of(name: str, allowed: tuple[int, ...]) -> Refusal:
    """For a setting of whole numbers."""
    listed = " or ".join(map(str, allowed))
    return Refusal(
        f"{name} other than {listed}",
        lambda settings: type(settings[name]) is not int or settings[name] not in allowed,
        f"The projector of {{folder}} has {name} {{{name}!r}}; it can be {listed}.",
    )


NEEDS = (
    one_of(FACTOR, _FACTORS),
    Refusal(
        f"a grid of patches whose sides {FACTOR} doesn't divide",
        lambda settings: settings["grid"] % settings[FACTOR] > 0,
        f"{{folder}} has {{grid}} patches along a picture's side, which {FACTOR} {{{FACTOR}}} doesn't divide.",
    ),
)
