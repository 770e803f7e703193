"""Modules on the grid of a picture's patches, of which projectors are put together."""

from __future__ import annotations

from torch import Tensor, nn


class Grid(nn.Module):
    """Tokens [I, side², W] → [I, W, side, side]."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self._side = side

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        return tokens.transpose(1, 2).unflatten(2, (self._side, self._side))


class Tokens(nn.Module):
    """The way back: [I, W, height, width] → [I, height · width, W]."""

    def forward(self, grid: Tensor) -> Tensor:
        """See the class."""
        return grid.flatten(2).transpose(1, 2)


class Plus(nn.Sequential):
    """What its modules make, added to what they read."""

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return input + super().forward(input)


class Shuffle(nn.Module):
    """Squares of factor² patches joined to one token, row by row: [I, side², W] → [I, side² / factor², factor² · W]."""

    def __init__(self, side: int, factor: int) -> None:
        super().__init__()
        self._side, self._factor = side // factor, factor

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        side, factor = self._side, self._factor
        squares = tokens.unflatten(1, (side, factor, side, factor))  # [I, y, in y, x, in x, W]
        return squares.transpose(2, 3).flatten(3).flatten(1, 2)
