"""Losses a few rows at a time against the same formula at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from switchkd.losses import kneedle
from switchkd.losses.rowwise import rowwise


def cross_entropies(logits, targets):
    return cross_entropy(logits.float(), targets, reduction="none")


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, 9), size=st.integers(1, 40), at_once=st.integers(1, 5), seed=st.integers(0, 2**20))
def test_parts_give_the_whole(rows, size, at_once, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, size, generator=generator)
    targets = torch.randint(size, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kneedle._CHUNK_LOGITS, "cpu", at_once * size)
        for compute in (lambda given: rowwise(cross_entropies, given, targets), lambda x: cross_entropies(x, targets)):
            given_logits = logits.clone().requires_grad_()
            loss = compute(given_logits)
            (loss * weights).sum().backward()
            results.append((loss.detach(), given_logits.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_gradients_come_in_the_logits_own_precision():
    """What autograd gives for float32 temporaries of bfloat16 logits, to the bit."""
    logits = torch.randn(7, 30, generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = torch.arange(7)
    gradients = []
    for compute in (lambda x: rowwise(cross_entropies, x, targets), lambda x: cross_entropies(x, targets)):
        given_logits = logits.clone().requires_grad_()
        (compute(given_logits).sum() / 3).backward()
        gradients.append(given_logits.grad)
    assert gradients[0].dtype == torch.bfloat16 and torch.equal(*gradients)


def test_without_a_gradient_none_is_kept():
    loss = rowwise(cross_entropies, torch.randn(3, 4), torch.tensor([0, 1, 2]))
    assert not loss.requires_grad
