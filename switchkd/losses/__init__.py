"""The losses of Switch-KD: knee, DBiLD, whole-distribution divergences and the objective over them."""

from switchkd.losses.alignment import METHODS, Aligned, alignment
from switchkd.losses.dbild import DbildResult, dbild
from switchkd.losses.divergences import forward_kl, reverse_kl
from switchkd.losses.kneedle import KneeScope, NonFiniteLogitsError, knee
from switchkd.losses.objective import Objective, Terms

__all__ = [
    "METHODS",
    "Aligned",
    "DbildResult",
    "KneeScope",
    "NonFiniteLogitsError",
    "Objective",
    "Terms",
    "alignment",
    "dbild",
    "forward_kl",
    "knee",
    "reverse_kl",
]
