"""How many of a row's logits are informative: the knee of the sorted logits (paper section 3.2, equations 8 to 10)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from switchkd.errors import RecipeError, SkdError

# Most buckets of the histogram, and a bound on the rounding error of a bucket's edge as a part of the row's range.
_BUCKETS = 4096
_SLACK = 1e-5
# Logits worked on at a time: what fits the caches of a CPU, what fills an accelerator.
_CHUNK_LOGITS = {"cpu": 5 * 2**18}
_CHUNK_LOGITS_ACCELERATOR = 2**24


class NonFiniteLogitsError(SkdError):
    """Logits with NaN or infinity, or so far apart that their range overflows: they have no knee."""


@dataclass(frozen=True)
class KneeScope:
    """Which k of a row's logits lead: the knee by default, a fixed number when `k` is given."""

    knee_top: int | None = None  # search the knee among the largest `knee_top` logits only; None: among all
    k_min: int | None = None  # never fewer than this, where a knee exists
    k_max: int | None = None  # never more than this
    k: int | None = None  # this many, without a search (BiLD)

    def __post_init__(self) -> None:
        least = {"knee_top": 2, "k_min": 1, "k_max": 1, "k": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < bound):
                raise RecipeError(f"{name} is {value!r}; it must be a whole number of at least {bound}.")
        if self.k is not None and (self.knee_top, self.k_min, self.k_max) != (None, None, None):
            raise RecipeError(f"k={self.k} fixes the number of logits; leave out knee_top, k_min and k_max.")
        for name, upper in (("k_max", self.k_max), ("knee_top", self.knee_top)):
            if self.k_min is not None and upper is not None and self.k_min > upper:
                raise RecipeError(f"k_min={self.k_min} is above {name}={upper}; lower k_min or raise {name}.")


@dataclass(frozen=True)
class Leaders:
    """The leading logits of each row in descending order, ties by token id. Entries from `k` on are not leaders."""

    tokens: Tensor  # [A, K] int64, 0 where a row holds fewer than K
    k: Tensor  # [A] int64, at most K

    @property
    def valid(self) -> Tensor:
        """Which entries lead, [A, K] bool."""
        return torch.arange(self.tokens.shape[1], device=self.k.device) < self.k[:, None]


def leaders(logits: Tensor, scope: KneeScope, whose: str = "given") -> Leaders:
    """The leading logits of each row.

    With z sorted in descending order, x_i = i/N and y_i = (z_i - z_min) / (z_max - z_min), k is the first i that
    maximises d_i = (1 - x_i) - y_i. It is decided on N·(z_max - z_i) - i·(z_max - z_min), the same quantity without
    its divisions, in float64: exact arithmetic for float16 and bfloat16 logits of usual size, rounded once per
    operation otherwise. `knee_top=K` takes the K largest logits for the whole row. A row whose searched logits are all
    equal has no knee: k = 0, whatever `k_min` says.

    Args:
        logits: [A, N], float32 or float64, A >= 1.
        whose: they are, for an error.

    Raises:
        NonFiniteLogitsError: A row holds NaN or infinity, or its range overflows.
    """
    size = logits.shape[1]
    low, high = logits.amin(1), logits.amax(1)  # [A]
    if not torch.isfinite(high - low).all():
        raise NonFiniteLogitsError(
            f"The {whose} logits hold NaN or infinity, or overflow; lower the learning rate or use bfloat16."
        )
    searched = min(size, scope.k or scope.knee_top or size)
    if scope.k or scope.knee_top:
        head = logits >= logits.topk(searched, dim=1, sorted=True).values[:, -1:]
    else:
        head = _up_to_knee(logits, low, high, min(size, scope.k_min or 1))
    values, tokens = _sorted(logits, head)
    if scope.k:
        k = torch.full_like(tokens[:, 0], searched)
    else:
        if scope.knee_top:
            low = values[:, searched - 1]
        k = _knee_of_sorted(values[:, :searched], searched, low).clamp(scope.k_min or 0, min(size, scope.k_max or size))
        k = k.where(high > low, 0)
    return Leaders(tokens[:, : max(1, int(k.max()))], k)


def check_logits(logits: Tensor) -> None:
    """Raise ValueError unless `logits` is [A, N] with N >= 1 and of a floating type."""
    if logits.dim() != 2 or logits.shape[1] < 1 or not logits.is_floating_point():
        raise ValueError(f"Logits must be [positions, tokens] of a floating type, not {logits.dtype} {logits.shape}.")


def widened(logits: Tensor) -> Tensor:
    """The logits as float32, or as they are if float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


def precise(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: for the few leading logits, whose sums cancel."""
    return torch.float32 if device.type == "mps" else torch.float64


def chunks(logits: Tensor, positions: int | None) -> Iterator[slice]:
    """Slices over the rows of [A, N] logits, `positions` at a time, so that temporaries stay bounded."""
    budget = _CHUNK_LOGITS.get(logits.device.type, _CHUNK_LOGITS_ACCELERATOR)
    step = positions or max(1, budget // logits.shape[1])
    for start in range(0, logits.shape[0], step):
        yield slice(start, start + step)


def _knee_of_sorted(values: Tensor, size: int, low: Tensor) -> Tensor:
    """Rank of the largest d over descending `values` [A, K] (padded with -inf) out of `size`, as [A] int64."""
    wide = values.to(precise(values.device))
    high = wide[:, :1]
    rank = torch.arange(1, wide.shape[1] + 1, dtype=wide.dtype, device=wide.device)
    distance = size * (high - wide) - rank * (high - low.to(wide)[:, None])  # N·R·d, [A, K]
    return distance.masked_fill_(wide.isneginf(), -torch.inf).argmax(1) + 1


def _up_to_knee(logits: Tensor, low: Tensor, high: Tensor, at_least: int) -> Tensor:
    """Mask [A, N] of each row's largest logits: enough to hold its knee for sure, and `at_least` of them.

    A histogram bounds d without sorting. In a bucket that spans 1 - y = [h, h + 1/B] and the ranks from `first`
    on, no d exceeds h + 1/B - first/N, and the first d reaches h - first/N. A bucket whose upper bound stays below
    the best lower bound can't hold the knee, so everything after the last hopeful bucket is left out.
    """
    size = logits.shape[1]
    buckets = min(size, _BUCKETS)  # more than logits would cost and tell nothing
    span = (high - low).where(high > low, 1)[:, None]
    # Rounding is monotonic: buckets are ordered as the logits are, so ranks at bucket borders are exact.
    bucket = (high[:, None] - logits).div_(span).mul_(buckets).long().clamp_(max=buckets - 1)  # [A, N]
    one = torch.ones(1, 1, dtype=torch.int32, device=logits.device)
    count = one.new_zeros(len(logits), buckets).scatter_add_(1, bucket, one.expand_as(bucket))
    last = count.cumsum(1)  # [A, B], as all below
    edge = torch.arange(buckets, device=logits.device)
    bound = (edge / buckets - (last - count + 1) / size).masked_fill_(count == 0, -torch.inf)
    hopeful = bound + 1 / buckets + _SLACK >= bound.amax(1, keepdim=True)
    cut = torch.maximum((edge * hopeful).amax(1), (last < at_least).sum(1))
    return bucket <= cut[:, None]


def _sorted(logits: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """The masked logits of each row in descending order, ties by token id: values (-inf as padding) and ids, [A, K]."""
    row, token = head.nonzero(as_tuple=True)
    count = head.sum(1)
    slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    values = logits.new_full((len(logits), int(count.max())), -torch.inf)
    tokens = torch.zeros_like(values, dtype=torch.int64)
    values[row, slot] = logits[row, token]
    tokens[row, slot] = token
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, tokens.gather(1, order)
