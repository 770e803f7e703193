"""A text read by two real models, beside scipy and literal sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax
from support.llava_models import make_checkpoint

from switchkd.passages import PROVING, passages
from switchkd.runtime.bench.reading import (
    Page,
    Readings,
    TextReference,
    compare_reading,
    counting_perplexity,
    keep_reading,
    perplexity,
)
from switchkd.runtime.bench.statistics import SAMPLES_NEEDED
from switchkd.runtime.engines.opening import open_checkpoint


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Two checkpoints of the same tokenizer, and one of another vocabulary."""
    folder = tmp_path_factory.mktemp("readers")
    made = [make_checkpoint(folder / f"s{seed}", seed=seed) for seed in range(2)]
    opened = [open_checkpoint(path, threads=1) for path in made]
    yield opened
    for engine in opened:
        engine.close()


@pytest.fixture(scope="module")
def page(engines):
    return passages(engines[0].prompt, PROVING, context=4096)[:4]


def rows(engine, ids):
    return np.asarray(engine.language.prefill(ids, every=True), np.float64)


def test_figures_are_those_of_literal_sums(engines, page, tmp_path):
    reference, other = engines
    readings = Readings(TextReference(Page(page, math.inf), [[0.0]]))
    kl, same, surprises = [], [], []
    for place, ids in enumerate(page):
        own = keep_reading(reference, ids, tmp_path / f"{place}.npy")
        p, q = rows(reference, ids), rows(other, ids)
        expected = [-log_softmax(p[at])[token] for at, token in enumerate(ids[1:])]
        np.testing.assert_allclose(own, expected, rtol=1e-6)
        readings.add(compare_reading(other, ids, tmp_path / f"{place}.npy"))
        kl += rel_entr(softmax(p, -1), softmax(q, -1)).sum(-1).tolist()
        same += (p.argmax(-1) == q.argmax(-1)).tolist()
        surprises += [-log_softmax(q[at])[token] for at, token in enumerate(ids[1:])]
    summary = readings.summary()
    assert summary["kl_mean"] == pytest.approx(np.mean(kl), rel=1e-3)
    assert summary["kl_max"] == pytest.approx(max(kl), rel=1e-3)
    # Kept in 11 bits, two nearly equal chances may become equal.
    assert summary["top1"] == pytest.approx(np.mean(same), abs=0.01)
    assert summary["perplexity"] == pytest.approx(np.exp(np.mean(surprises)), rel=1e-5)
    assert summary["positions"] == sum(map(len, page)) == len(kl)
    assert (summary["kl_p99"] is None) == (len(kl) < SAMPLES_NEEDED["p99"])


def test_a_model_is_itself_in_spite_of_what_files_round(engines, page, tmp_path):
    for place, ids in enumerate(page):
        keep_reading(engines[0], ids, tmp_path / f"{place}.npy")
        found = compare_reading(engines[0], ids, tmp_path / f"{place}.npy")
        assert max(found["kl"]) < 1e-6 and all(found["same"])


def test_another_vocabulary_is_not_compared(engines, page, tmp_path):
    keep_reading(engines[0], page[0], tmp_path / "0.npy")
    np.save(tmp_path / "other.npy", np.load(tmp_path / "0.npy")[:, :-1])
    found = compare_reading(engines[1], page[0], tmp_path / "other.npy")
    assert found["kl"] is None and found["same"] is None and len(found["surprises"]) == len(page[0]) - 1
    readings = Readings(TextReference(Page(page, math.inf), [[0.0]]))
    readings.add(found)
    assert readings.summary()["kl_mean"] is None and readings.summary()["positions"] == 0


def test_counting_by_hand():
    """Of four tokens, 0 was seen twice and 1 once: 3, 2, 1 and 1 of 7."""
    assert counting_perplexity([[0, 1, 0]], [[3, 0, 1], [2, 2]], 4) == pytest.approx((7 / 3 * 7 / 2 * 7 / 1) ** (1 / 3))
    assert perplexity([800.0, 800.0]) == math.inf


@pytest.mark.parametrize(("nats", "can_read"), [(2.0, True), (4.7, False), (30.0, False)])
def test_who_is_worse_than_counting_cannot_read(nats, can_read):
    assert TextReference(Page([[1, 2, 3]], 100.0), [[nats, nats]]).can_read is can_read


def test_random_weights_cannot_read(engines):
    """They know less than counting does; what they make of English is no evidence."""
    prompt = engines[0].prompt
    page = Page.load(prompt, context=4096)
    surprises = [
        [-log_softmax(row)[token] for row, token in zip(rows(engines[0], ids), ids[1:], strict=False)]
        for ids in page.passages[:3]
    ]
    assert 1 < page.counting_perplexity < prompt.length
    assert not TextReference(page, surprises).can_read
