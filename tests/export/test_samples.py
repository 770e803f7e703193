"""Samples: spread over a file, read from the built-in task, made up where there is none."""

import json

import pytest

from switchkd.errors import DataError
from switchkd.export.samples import SampleFile, synthetic_samples


def test_questions_are_spread_over_the_file(road_scenes):
    file = next(path for path in sorted(road_scenes.glob("test*.json")))
    everything = SampleFile(file, road_scenes / "images").questions(10**6)
    some = SampleFile(file, road_scenes / "images").questions(5)
    assert len(some) == 5 and some[0] == everything[0]
    assert [everything.index(sample) for sample in some] == [index * len(everything) // 5 for index in range(5)]
    assert all(sample.answer and sample.images()[0].mode == "RGB" for sample in some)


def test_calibration_passes_over_what_is_unusable(mixed_data, tmp_path):
    file, images = mixed_data
    records = json.loads(file.read_text())
    good = SampleFile(file, images).conversations(100)
    assert len(good) == len(records) and any(not sample.pictures for sample in good)
    assert good[0].messages[-1]["role"] == "assistant"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps([{"conversations": []}, *records[:2], {**records[0], "image": "../x.png"}]))
    told: list[str] = []
    assert len(SampleFile(broken, images, leave_out=told.append).conversations(100)) == 2
    assert [why.partition(":")[0] for why in told] == ["no_conversation", "outside_folder"]
    broken.write_text(json.dumps([{"conversations": []}]))
    with pytest.raises(DataError, match="no usable record"):
        SampleFile(broken, images).conversations(100)


@pytest.mark.parametrize("keep", [0, 40, 0.5, 0.9])
def test_torn_pictures_are_left_out_and_told(road_scenes, tmp_path, keep):
    """Of conversations to quantize by, and of questions to measure on."""
    for name, read in (("instruct.json", SampleFile.conversations), ("test.json", SampleFile.questions)):
        every = [record for record in json.loads((road_scenes / name).read_text()) if "image" in record]
        records = list({record["image"]: record for record in every}.values())[:4]  # a picture each
        torn = records[2]["image"]
        for record in records:
            target = tmp_path / name / record["image"]
            target.parent.mkdir(parents=True, exist_ok=True)
            content = (road_scenes / "images" / record["image"]).read_bytes()
            cut = int(keep * len(content)) if isinstance(keep, float) else keep
            target.write_bytes(content[:cut] if record["image"] == torn else content)
        (tmp_path / f"{name}.data").write_text(json.dumps(records))
        told: list[str] = []
        samples = read(SampleFile(tmp_path / f"{name}.data", tmp_path / name, leave_out=told.append), 100)
        whole = [record for record in records if record["image"] != torn]
        assert [*(path for sample in samples for path in sample.pictures)] == [
            tmp_path / name / record["image"] for record in whole
        ]
        assert len(told) == 1 and torn in told[0]
        (tmp_path / f"{name}.data").write_text(json.dumps([records[2]]))
        with pytest.raises(DataError):
            read(SampleFile(tmp_path / f"{name}.data", tmp_path / name), 100)


def test_made_up_pictures_are_the_same_every_time():
    first, again, others = synthetic_samples(6), synthetic_samples(6), synthetic_samples(6, seed=1)
    assert [sample.images()[0].tobytes() for sample in first] == [sample.images()[0].tobytes() for sample in again]
    assert first[0].images()[0].size != others[0].images()[0].size
