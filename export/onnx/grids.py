"""Levels that a matrix's weights are rounded to: a scale, and where wanted an offset, for every block of inputs of an output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
# Shares of a block's range that are tried: its largest weight may be worth less than finer steps for the others.
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_REFINED = 2  # least-squares steps after that
_CACHED = 1 << 19  # weights that are worked on at once: they and what is made of them fit a cache
_TINY = 1e-12


@dataclass(frozen=True)
class Grid:
    """The levels (code − offset) · scale of a matrix [K, N]."""

    scale: Floats  # [K / block, N]
    offset: Floats  # [K / block, N], whole numbers
    lowest: int  # code
    highest: int
    block: int  # inputs that share a scale; the last block may be cut short

    def round(self, weights: Floats) -> NDArray[np.int16]:
        """Codes [K, N] of the levels nearest to weights [K, N]."""
        depth, width = weights.shape
        codes = np.empty((depth, width), np.int16)
        for part in _columns(depth, width):
            scale, offset = (self._spread(each[:, part], depth) for each in (self.scale, self.offset))
            codes[:, part] = np.clip(np.rint(weights[:, part] / scale) + offset, self.lowest, self.highest)
        return codes

    def values(self, codes: NDArray[np.int16]) -> Floats:
        """The weights [K, N] that codes mean."""
        scale, offset = (self._spread(each, len(codes)) for each in (self.scale, self.offset))
        return (codes - offset) * scale

    def _spread(self, each: Floats, depth: int) -> Floats:
        """One row for every input."""
        return np.repeat(each, self.block, axis=0)[:depth] if len(each) > 1 else each


def symmetric_grid(weights: Floats, energy: Floats, *, limit: int) -> Grid:
    """Levels −limit … limit around zero, one scale for each output.

    Args:
        weights: [K, N].
        energy: mean square of each input [K]; weighs the errors by which ranges are chosen.
        limit: the largest code.
    """
    return _fit(weights, energy, -limit, limit, len(weights), offset=False)


def offset_grid(weights: Floats, energy: Floats, *, bits: int, block: int) -> Grid:
    """Levels 0 … 2^bits − 1 with a whole offset for every block of inputs; other arguments as for `symmetric_grid`.

    Its scales are those that `halved` keeps: every weight would pay half a bit more for float32.
    """
    grid = _fit(weights, energy, 0, 2**bits - 1, block, offset=True)
    half, unit = halved(grid.scale)
    return replace(grid, scale=half.astype(np.float32) * unit)


def halved(scale: Floats) -> tuple[NDArray[np.float16], np.float32]:
    """Scales as multiples, in float16, of a power of two that puts the largest near float16's upper end: those of a matrix whose
    channels differ by a factor of a million keep eleven bits."""
    unit = np.float32(2.0 ** (np.floor(np.log2(scale.max())) - 14))
    return np.maximum(scale / unit, np.finfo(np.float16).smallest_subnormal).astype(np.float16), unit


def _fit(weights: Floats, energy: Floats, lowest: int, highest: int, block: int, *, offset: bool) -> Grid:
    """The range of every block, of those in `_SHRINK`, with the least weighted square error of nearest levels."""
    import torch

    depth, width = weights.shape
    pad = -depth % block
    importance = torch.from_numpy(np.pad(energy, (0, pad))).reshape(-1, block, 1)
    scale, zero = (np.empty((len(importance), width), np.float32) for _ in range(2))
    for part in _columns(depth, width):
        padded = np.pad(weights[:, part], ((0, pad), (0, 0)))
        blocks = torch.from_numpy(padded).reshape(-1, block, padded.shape[1])
        scale[:, part], zero[:, part] = _fit_blocks(blocks, importance, lowest, highest, offset)
    return Grid(scale, zero, lowest, highest, block)


def _fit_blocks(blocks: Tensor, importance: Tensor, lowest: int, highest: int, offset: bool) -> tuple[Tensor, Tensor]:
    """Scale and offset [B, N] of weights [B, block, N], whose inputs weigh `importance` [B, block, 1]: those of the best range,
    then the step of the least squares for the levels that it gives, which lowers the error of four bits by 3 %."""
    import torch

    top, bottom = blocks.amax(1).clamp(min=0), blocks.amin(1).clamp(max=0)  # zero stays a level
    least = torch.full_like(top, torch.inf)
    scale, zero = torch.ones_like(top), torch.zeros_like(top)
    for shrink in _SHRINK:
        if offset:
            step = (shrink * (top - bottom) / (highest - lowest)).clamp(min=_TINY)
            shift = (-shrink * bottom / step).round().clamp(lowest, highest)
        else:
            step = (shrink * torch.maximum(top, -bottom) / highest).clamp(min=_TINY)
            shift = torch.zeros_like(step)
        error = _error(blocks, _levels(blocks, step, shift, lowest, highest), step, importance)
        better = error < least
        least = torch.where(better, error, least)
        scale, zero = torch.where(better, step, scale), torch.where(better, shift, zero)
    for _ in range(_REFINED):
        levels = _levels(blocks, scale, zero, lowest, highest)
        weighted = levels * importance
        step = (weighted * blocks).sum(1) / (weighted * levels).sum(1).clamp(min=_TINY)
        error = _error(blocks, _levels(blocks, step.clamp_(min=_TINY), zero, lowest, highest), step, importance)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, step, scale)
    return scale, zero


def _levels(blocks: Tensor, step: Tensor, shift: Tensor, lowest: int, highest: int) -> Tensor:
    """The levels nearest to weights, as multiples of the step [B, block, N]."""
    return (blocks / step[:, None]).round_().clamp_((lowest - shift)[:, None], (highest - shift)[:, None])


def _error(blocks: Tensor, levels: Tensor, step: Tensor, importance: Tensor) -> Tensor:
    """Weighted square error of a block [B, N]."""
    return (levels * step[:, None]).sub_(blocks).square_().mul_(importance).sum(1)


def _columns(depth: int, width: int) -> list[slice]:
    """Parts of a matrix's columns, small enough for a cache."""
    count = max(1, _CACHED // depth)
    return [slice(start, start + count) for start in range(0, width, count)]
