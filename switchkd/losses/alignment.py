"""The alignment losses of the paper's Table 4 as one family, chosen by name."""

from collections.abc import Callable

from torch import Tensor

from switchkd.errors import RecipeError
from switchkd.losses.dbild import Aligned, Direction, dbild
from switchkd.losses.divergences import forward_kl, reverse_kl
from switchkd.losses.kneedle import KneeScope, check_temperature
from switchkd.training.recipe import METHODS

_WHOLE = {"fkl": forward_kl, "rkl": reverse_kl}
_DIRECTIONS: dict[str, Direction] = {"fkl": "forward", "rkl": "reverse"}
Alignment = Callable[[Tensor, Tensor], Aligned]


def alignment(
    method: str,
    *,
    temperature: float,
    k: int = 8,
    knee_top: int | None = None,
    k_min: int | None = None,
    k_max: int | None = None,
    tau_squared: bool = False,
) -> Alignment:
    """The loss called `method`, as a function of teacher logits and student logits, both [A, N].

    Args:
        method: `fkl`, `rkl` (whole distribution), `bild-fkl`, `bild-rkl` (pairs of the top `k`), `dbild-fkl`,
            `dbild-rkl` (pairs up to the knee).
        temperature: τ.
        k: Number of leading logits, for `bild-*` only.
        knee_top, k_min, k_max: Scope and bounds of the knee, for `dbild-*` only.
        tau_squared: Multiply the loss by τ², which keeps its gradient's size independent of τ.

    Raises:
        RecipeError: An unknown method, or an option that can't be used or has no effect with this method.
    """
    if method not in METHODS:
        raise RecipeError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
    check_temperature(temperature)
    knee_options = {"knee_top": knee_top, "k_min": k_min, "k_max": k_max}
    kind, _, divergence = method.rpartition("-")
    for name, value in knee_options.items():
        if kind != "dbild" and value is not None:
            raise RecipeError(f"{name} has no effect with method {method}; leave it out or choose dbild-{divergence}.")
    factor = temperature**2 if tau_squared else 1.0

    if not kind:
        return lambda teacher, student: Aligned(_WHOLE[divergence](teacher, student, temperature=temperature) * factor)

    leading = {"k": k} if kind == "bild" else knee_options
    KneeScope(**leading)  # refuses bad numbers now, not at the first batch

    def of_pairs(teacher: Tensor, student: Tensor) -> Aligned:
        aligned = dbild(teacher, student, temperature=temperature, direction=_DIRECTIONS[divergence], **leading)
        return aligned._replace(loss=aligned.loss * factor)

    return of_pairs
