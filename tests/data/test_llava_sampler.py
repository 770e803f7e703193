"""The order of samples: every one once, the same for the same seed, similar lengths together."""

from __future__ import annotations

import numpy as np
import pytest

from switchkd.data.sampler import LengthGroupedSampler

LENGTHS = np.random.default_rng(0).integers(10, 2000, 5003)


@pytest.mark.parametrize(("count", "batch"), [(0, 4), (1, 4), (3, 4), (4, 4), (401, 4), (5003, 16), (5003, 1)])
def test_every_sample_once(count, batch):
    sampler = LengthGroupedSampler(LENGTHS[:count], batch, seed=0)
    assert len(sampler) == count
    assert sorted(sampler) == list(range(count))


def test_the_order_is_the_seed_s_and_the_epoch_s():
    sampler = LengthGroupedSampler(LENGTHS, 16, seed=3)
    first = list(sampler)
    assert list(sampler) == first == list(LengthGroupedSampler(LENGTHS.tolist(), 16, seed=3))
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    assert second == list(LengthGroupedSampler(LENGTHS, 16, seed=3, epoch=1))
    assert first != list(LengthGroupedSampler(LENGTHS, 16, seed=4))
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_a_golden_order():
    assert list(LengthGroupedSampler([5, 1, 4, 2, 3, 9, 8], 2, seed=0)) == [0, 2, 4, 3, 5, 6, 1]


def test_batches_hold_similar_lengths():
    order = np.array(list(LengthGroupedSampler(LENGTHS, 16, seed=0)))[:4992]
    batches = LENGTHS[order].reshape(-1, 16)
    padded = batches.max(axis=1).sum() * 16 / batches.sum()
    mixed = LENGTHS[:4992].reshape(-1, 16)
    assert padded < 1.03 < 1.7 < mixed.max(axis=1).sum() * 16 / mixed.sum()


def test_lengths_do_not_drift_over_the_epoch():
    order = np.array(list(LengthGroupedSampler(LENGTHS, 16, seed=0)))
    means = LENGTHS[order][:4800].reshape(6, -1).mean(axis=1)
    assert np.abs(means / LENGTHS.mean() - 1).max() < 0.1
    ranks = np.corrcoef(np.arange(800), LENGTHS[order][:800])[0, 1]  # inside one group of batches
    assert abs(ranks) < 0.4


def test_ungrouped_batches_hold_every_length():
    sampler = LengthGroupedSampler(LENGTHS, 16, seed=0, grouped=False)
    order = np.array(list(sampler))
    assert sorted(order) == list(range(len(LENGTHS)))
    batches = LENGTHS[order[: len(order) // 16 * 16]].reshape(-1, 16)
    assert np.median(np.ptp(batches, axis=1)) > np.ptp(LENGTHS) / 2
    assert list(sampler) == order.tolist() != list(LengthGroupedSampler(LENGTHS, 16, seed=1, grouped=False))
