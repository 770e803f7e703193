"""Batches of samples of similar length, so that little of them is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

_MEGABATCH = 50  # batches among which samples are sorted, as in transformers' LengthGroupedSampler


class LengthGroupedSampler(Sampler[int]):
    """Every sample once an epoch, in a random order of batches whose samples have similar lengths, or in plain random order.

    The order depends on seed and epoch alone, not on the number of processes: give the global batch size (all devices
    and accumulation steps), and let accelerate hand out the parts.

    Args:
        lengths: tokens of each sample, [N].
        batch_size: samples of one optimizer step.
        seed: of the shuffling.
        epoch: see `set_epoch`.
        grouped: by length; else every batch is drawn at random.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int32],
        batch_size: int,
        seed: int,
        epoch: int = 0,
        *,
        grouped: bool = True,
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._megabatch = _MEGABATCH if grouped else 1
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(len(self._lengths))
        # The incomplete batch, if any, stays a random one at the end: elsewhere it would shift the others' bounds.
        whole = len(order) // self._batch_size * self._batch_size
        grouped, rest = order[:whole], order[whole:]
        mega = self._batch_size * self._megabatch
        for start in range(0, whole, mega):
            part = grouped[start : start + mega]
            batches = part[np.argsort(-self._lengths[part], kind="stable")].reshape(-1, self._batch_size)
            yield from random.permutation(batches).ravel().tolist()
        yield from rest.tolist()
