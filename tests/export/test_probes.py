"""Probes: spread over a file, read from the built-in task, made up where there is none."""

import json

import pytest

from switchkd.errors import DataError
from switchkd.export.probes import calibration_probes, held_out_probes, synthetic_probes


def test_questions_are_spread_over_the_file(road_scenes):
    file = next(path for path in sorted(road_scenes.glob("test*.json")))
    everything = held_out_probes(file, road_scenes / "images", 10**6)
    some = held_out_probes(file, road_scenes / "images", 5)
    assert len(some) == 5 and some[0] == everything[0]
    assert [everything.index(probe) for probe in some] == [index * len(everything) // 5 for index in range(5)]
    assert all(probe.answer and probe.image().mode == "RGB" for probe in some)


def test_calibration_passes_over_what_is_unusable(mixed_data, tmp_path):
    file, images = mixed_data
    records = json.loads(file.read_text())
    good = calibration_probes(file, images, 100)
    assert len(good) == len(records) and any(probe.picture is None for probe in good)
    assert good[0].messages[-1]["role"] == "assistant"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps([{"conversations": []}, *records[:2], {**records[0], "image": "../x.png"}]))
    assert len(calibration_probes(broken, images, 100)) == 2
    broken.write_text(json.dumps([{"conversations": []}]))
    with pytest.raises(DataError, match="no usable record"):
        calibration_probes(broken, images, 100)


def test_made_up_pictures_are_the_same_every_time():
    first, again, others = synthetic_probes(6), synthetic_probes(6), synthetic_probes(6, seed=1)
    assert [probe.image().tobytes() for probe in first] == [probe.image().tobytes() for probe in again]
    assert first[0].image().size != others[0].image().size
