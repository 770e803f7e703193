"""Logits of the kinds that losses meet."""

import torch


def rows_like_a_language_model(rows: int, size: int, seed: int) -> torch.Tensor:
    """[rows, size]: a broad middle and a few hundredths of a per cent far above it, in any order."""
    random = torch.Generator().manual_seed(seed)
    z = 2.2 * torch.randn(rows, size, generator=random)
    z[:, : size // 500 + 1] += 12 * torch.rand(rows, size // 500 + 1, generator=random)
    return z[:, torch.randperm(size, generator=random)]
