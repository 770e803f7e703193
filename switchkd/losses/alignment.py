"""The alignment losses of the paper's Table 4 as one family, chosen by name."""

from collections.abc import Callable

from torch import Tensor

from switchkd.errors import RecipeError
from switchkd.losses.dbild import Aligned, Direction, dbild
from switchkd.losses.divergences import forward_kl, reverse_kl
from switchkd.losses.kneedle import KneeScope
from switchkd.recipes.recipe import Distillation
from switchkd.recipes.settings import build, to_plain

_WHOLE = {"fkl": forward_kl, "rkl": reverse_kl}
_DIRECTIONS: dict[str, Direction] = {"fkl": "forward", "rkl": "reverse"}
Alignment = Callable[[Tensor, Tensor], Aligned]


def alignment(settings: Distillation) -> Alignment:
    """The loss called `settings.method`, as a function of teacher logits and student logits, both [A, N]: `fkl`, `rkl` (whole
    distribution), `bild-fkl`, `bild-rkl` (pairs of the top `k`), `dbild-fkl`, `dbild-rkl` (pairs up to the knee).

    Raises:
        RecipeError: A setting that can't be used or has no effect with this method.
    """
    build(Distillation, to_plain(settings), "distillation")  # a recipe's ranges hold for settings made in Python too
    method, temperature = settings.method, settings.temperature
    knee_options = {name: getattr(settings, name) for name in ("knee_top", "k_min", "k_max")}
    kind, _, divergence = method.rpartition("-")
    for name, value in knee_options.items():
        if kind != "dbild" and value is not None:
            raise RecipeError(f"{name} has no effect with method {method}; leave it out or choose dbild-{divergence}.")
    factor = temperature**2 if settings.tau_squared else 1.0

    if not kind:
        return lambda teacher, student: Aligned(_WHOLE[divergence](teacher, student, temperature=temperature) * factor)

    leading = {"k": settings.k} if kind == "bild" else knee_options
    KneeScope(**leading)  # refuses bad numbers now, not at the first batch

    def of_pairs(teacher: Tensor, student: Tensor) -> Aligned:
        aligned = dbild(teacher, student, temperature=temperature, direction=_DIRECTIONS[divergence], **leading)
        return aligned._replace(loss=aligned.loss * factor)

    return of_pairs
