"""The index: every record's place, length and reason; its report and its cache."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
from support.llava_files import IMAGE_TOKENS, car, turns
from support.tokenizers import small_prompt

from switchkd.data import index as index_module
from switchkd.data.index import build_index
from switchkd.data.reasons import Reason
from switchkd.data.records import read_record
from switchkd.data.usability import count_usable
from switchkd.errors import CheckpointError, DataError
from switchkd.prompt import ChatPrompt

USABLE = [
    car(),
    car(id="several", conversations=turns("<image>\nWhat?", "A car.", "Which colour?", "Red.", system="Be brief.")),
    car(id="late", conversations=turns("Hello", "Hi.", "Now\n<image>", "A car.")),
    {"id": 4, "conversations": turns("2 + 2?", "4")},
    {"conversations": turns('你好 \u0001 \\ " 🚗\ud7ff', "é \t\n")},
    car(id="two", image=["car.png", "sub/sign.jpg"], conversations=turns("<image>\n<image>\nWhat?", "b")),
    car(id="folder", image="sub/sign.jpg"),
    car(id="dots", image="./sub/../car.png".replace("sub/../", "")),
    {"id": "roles", "conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]},
    {"id": "names", "conversations": turns("Say <|im_end|> and <|image_pad|>", "<|im_start|>")},
]
BAD = [
    ([1, 2], Reason.NOT_AN_OBJECT),
    ("text", Reason.NOT_AN_OBJECT),
    ({"id": "none"}, Reason.NO_CONVERSATION),
    ({"conversations": []}, Reason.NO_CONVERSATION),
    ({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt"}]}, Reason.NO_CONVERSATION),
    ({"conversations": [{"from": "tool", "value": "x"}]}, Reason.NO_CONVERSATION),
    ({"conversations": turns("only a question")}, Reason.NO_ASSISTANT_TURN),
    ({"conversations": turns("a question", " \n")}, Reason.NO_ASSISTANT_TURN),
    ({"conversations": turns("a", "b", "and?")}, Reason.BAD_TURN_ORDER),
    ({"conversations": turns("a", "b")[::-1]}, Reason.BAD_TURN_ORDER),
    ({"conversations": [*turns("a", "b"), {"from": "system", "value": "late"}]}, Reason.BAD_TURN_ORDER),
    (car(conversations=turns("no marker", "b")), Reason.IMAGE_MARKER),
    (car(conversations=turns("<image> <image>", "b")), Reason.IMAGE_MARKER),
    (car(image=["car.png", "car.png"]), Reason.IMAGE_MARKER),
    (car(image="car.png", images=["car.png", "sub/sign.jpg"]), Reason.IMAGE_MARKER),
    (car(image=["car.png", "missing.png"], conversations=turns("<image>\n<image>\nWhat?", "b")), Reason.NO_PICTURE),
    ({"conversations": turns("<image>\nno file", "b")}, Reason.IMAGE_MARKER),
    (car(image="missing.png"), Reason.NO_PICTURE),
    (car(image="sub"), Reason.NO_PICTURE),
    (car(image="nul\0.png"), Reason.NO_PICTURE),
    (car(image="x" * 5000), Reason.NO_PICTURE),
    (car(image="../secret.png"), Reason.OUTSIDE_FOLDER),
    (car(image="sub/../car.png"), Reason.OUTSIDE_FOLDER),
    (car(image="/etc/hostname"), Reason.OUTSIDE_FOLDER),
    (car(image="link.png"), Reason.OUTSIDE_FOLDER),
    (car(image="linked/secret.png"), Reason.OUTSIDE_FOLDER),
    (car(image="torn.jpg"), Reason.TORN_PICTURE),
    ({"conversations": turns("a", "b " * 500)}, Reason.TOO_LONG),
    ({"conversations": turns("noncharacter \ufdd1", "b")}, Reason.UNSAFE_TEXT),
]


@pytest.fixture
def escapes(tmp_path, images):
    """A picture outside the image folder, and links to it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for path in (tmp_path / "secret.png", outside / "secret.png"):
        path.write_bytes((images / "car.png").read_bytes())
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "linked").symlink_to(outside)
    (images / "inner.png").symlink_to(images / "car.png")  # stays inside: fine


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_record_gets_its_place_and_reason(make_source, escapes, name, workers, monkeypatch):
    monkeypatch.setattr(index_module, "_CHUNK", 7)
    records = [*USABLE, car(image="inner.png"), *(record for record, _ in BAD)]
    source = make_source(records, name)
    index = build_index(source, workers=workers)
    assert [Reason(r) for r in index.reason] == [Reason.USABLE] * (len(USABLE) + 1) + [reason for _, reason in BAD]
    raw = source.file.read_bytes()
    sliced = [json.loads(raw[o : o + s]) for o, s in zip(index.offset.tolist(), index.size.tolist(), strict=True)]
    assert sliced == records
    assert index.usable.tolist() == list(range(len(USABLE) + 1))
    for row in index.usable:
        messages = read_record(json.dumps(records[row]).encode()).messages
        assert index.tokens[row] == len(source.prompt.encode(messages, image_tokens=IMAGE_TOKENS).ids)
        named = records[row].get("image", [])
        assert index.pictures[row] == (1 if isinstance(named, str) else len(named))
    assert {name: array.dtype for name, array in vars(index).items()} == {
        "offset": np.int64,
        "size": np.int32,
        "tokens": np.int32,
        "pictures": np.int32,
        "reason": np.uint8,
    }


def test_text_that_is_not_unicode_is_counted(make_source):
    source = make_source([car()])
    lone, latin = rb'"\ud800"', b'"\xe9t\xe9"'
    template = b'{"conversations": [{"from": "human", "value": %s}, {"from": "gpt", "value": "b"}]}'
    source.file.write_bytes(b"[" + template % lone + b"," + template % latin + b"," + template % b'"a"' + b"]")
    assert build_index(source).reason.tolist() == [Reason.UNSAFE_TEXT, Reason.UNSAFE_TEXT, Reason.USABLE]


def test_a_picture_as_long_as_the_limit_is_usable_and_one_token_more_is_not(make_source):
    tokens = int(build_index(make_source([car()])).tokens[0])
    assert build_index(make_source([car()], max_length=tokens)).reason.tolist() == [Reason.USABLE]
    assert build_index(make_source([car()], max_length=tokens - 1)).reason.tolist() == [Reason.TOO_LONG]
    assert build_index(make_source([car()], image_tokens=IMAGE_TOKENS + 3)).tokens[0] == tokens + 3


def test_the_header_is_enough_where_asked(make_source):
    assert build_index(make_source([car(image="torn.jpg")], verify="header")).reason.tolist() == [Reason.USABLE]


def test_without_an_image_folder_pictures_are_missing(make_source):
    assert build_index(make_source([car()], images=None)).reason.tolist() == [Reason.NO_PICTURE]


def test_a_torn_line_costs_only_itself_and_a_torn_list_is_an_error(make_source):
    lines = make_source([car(), car(), car()], "data.jsonl")
    text = lines.file.read_text().split("\n")
    lines.file.write_text("\n".join([text[0], text[1][:-9], text[2]]))
    assert build_index(lines).reason.tolist() == [Reason.USABLE, Reason.TORN_RECORD, Reason.USABLE]
    whole = make_source([car(), car()])
    size = whole.file.stat().st_size
    whole.file.write_bytes(whole.file.read_bytes()[:-20])
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"data\.json isn't valid JSON at byte \d+") as caught:
            build_index(whole, workers=workers)
        assert size // 2 < int(str(caught.value).split("byte ")[1].split(":")[0]) < size


def test_a_template_without_labels_is_an_error(make_source):
    prompt = small_prompt()
    source = make_source([car()], prompt=ChatPrompt(prompt.tokenizer, "{{ messages }}", prompt.image_token_id))
    with pytest.raises(CheckpointError, match="generation"):
        build_index(source)


def test_progress_reaches_the_end(make_source, monkeypatch):
    monkeypatch.setattr(index_module, "_CHUNK", 2)
    source = make_source([car()] * 5)
    seen: list[tuple[int, int]] = []
    build_index(source, progress=lambda done, total: seen.append((done, total)))
    size = source.file.stat().st_size
    assert [total for _, total in seen] == [size] * 3
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert size - 5 < seen[-1][0] <= size


def test_the_report_counts_and_names(make_source):
    records = [car(id=f"good\n{n}") for n in range(8)] + [{"conversations": turns("a", "b")}]
    records += [car(id=f"lost {n}", image="missing.png") for n in range(7)] + [{"conversations": []}]
    source = make_source(records)
    index = build_index(source)
    report = count_usable(source, index)
    assert (report.total, report.usable, report.text_only) == (17, 9, 1)
    assert (report.several, report.most_pictures) == (0, 1)
    assert report.bad == {"no_picture": 7, "no_conversation": 1}
    assert report.why["no_picture"].startswith("missing.png isn't in ")
    assert report.examples == {"no_picture": [f"lost {n}" for n in range(5)], "no_conversation": ["record 17"]}
    with pytest.raises(
        DataError,
        match=r"8 of 17 .* 7 no_picture \(lost 0, .*: missing.png isn't .* 1 no_conversation \(record 17: no list",
    ):
        report.check()
    report.check(max_bad=0.5)
    assert "\n" not in json.dumps(dataclasses.asdict(report), default=str)


@pytest.mark.parametrize(
    ("bad", "good", "passes"), [(1, 99, True), (2, 98, False), (0, 1, True), (1, 0, False), (0, 0, False)]
)
def test_one_percent_may_be_bad(make_source, bad, good, passes):
    text = {"conversations": turns("a", "b")}
    source = make_source([text] * good + [{"id": "x\ny"}] * bad)
    report = count_usable(source, build_index(source))
    if passes:
        report.check()
    else:
        with pytest.raises(DataError) as caught:
            report.check()
        assert "\n" not in str(caught.value)
    if not good:
        with pytest.raises(DataError):
            report.check(max_bad=1.0)


class TestCache:
    @pytest.fixture
    def checks(self, monkeypatch):
        """Counts the records that are really checked, without a look at some pictures of a stored index."""
        monkeypatch.setattr(index_module, "_SPOT_CHECKS", 0)
        counted: list[int] = []
        check = index_module.Checker._check_one

        def counting(self, offset, size):
            counted.append(offset)
            return check(self, offset, size)

        monkeypatch.setattr(index_module.Checker, "_check_one", counting)
        return counted

    def test_is_reused_as_long_as_nothing_changed(self, make_source, tmp_path, checks):
        source = make_source([car(), {"id": 1}])
        first = build_index(source, cache=tmp_path / "cache")
        checks.clear()
        again = build_index(source, cache=tmp_path / "cache")
        assert checks == []
        for name in vars(first):
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npz"]

    @pytest.mark.parametrize(
        "change",
        ["file", "time", "template", "tokenizer", "image_tokens", "max_length", "verify", "follow_links", "images"],
    )
    def test_is_made_anew_on_any_change(self, make_source, tmp_path, checks, images, change):
        source = make_source([car()])
        build_index(source, cache=tmp_path / "cache")
        checks.clear()
        prompt = source.prompt
        if change == "file":
            source = make_source([car(), car()])
        elif change == "time":
            os.utime(source.file, ns=(0, 1))
        elif change == "template":
            changed = ChatPrompt(prompt.tokenizer, prompt.template + " ", prompt.image_token_id, prompt.special_tokens)
            source = dataclasses.replace(source, prompt=changed)
        elif change == "tokenizer":
            prompt.tokenizer.add_tokens(["picture"])
            changed = ChatPrompt(prompt.tokenizer, prompt.template, prompt.image_token_id, prompt.special_tokens)
            source = dataclasses.replace(source, prompt=changed)
        elif change == "images":
            source = dataclasses.replace(source, images=images / "sub")
        else:
            value = {"image_tokens": 5, "max_length": 401, "verify": "header", "follow_links": True}[change]
            source = dataclasses.replace(source, **{change: value})
        index = build_index(source, cache=tmp_path / "cache")
        assert len(checks) == len(index) > 0

    def test_pictures_that_were_missing_are_looked_at_again(self, make_source, tmp_path, checks, images):
        source = make_source([car(), car(image="later.png"), {"id": "bad"}, car(image="torn.jpg")])
        first = build_index(source, cache=tmp_path / "cache")
        assert [Reason(r).name for r in first.reason] == ["USABLE", "NO_PICTURE", "NO_CONVERSATION", "TORN_PICTURE"]
        (images / "later.png").write_bytes((images / "car.png").read_bytes())
        checks.clear()
        second = build_index(source, cache=tmp_path / "cache")
        assert len(checks) == 2
        assert [Reason(r).name for r in second.reason] == ["USABLE", "USABLE", "NO_CONVERSATION", "TORN_PICTURE"]
        checks.clear()
        build_index(source, cache=tmp_path / "cache")
        assert len(checks) == 1  # the change was stored

    def test_is_made_anew_when_pictures_went_away(self, make_source, tmp_path, images):
        """A folder that isn't mounted this time is noticed before the training, not a picture at a time in it."""
        source = make_source([car()] * 600)
        assert (build_index(source, cache=tmp_path / "cache").reason == Reason.USABLE).all()
        (images / "car.png").rename(images / "away.png")
        assert (build_index(source, cache=tmp_path / "cache").reason == Reason.NO_PICTURE).all()
        (images / "away.png").rename(images / "car.png")
        assert (build_index(source, cache=tmp_path / "cache").reason == Reason.USABLE).all()

    def test_is_made_anew_when_torn(self, make_source, tmp_path, checks):
        source = make_source([car()])
        build_index(source, cache=tmp_path / "cache")
        (stored,) = (tmp_path / "cache").iterdir()
        whole = stored.read_bytes()
        for broken in (b"", whole[: len(whole) // 2], b"PK" + whole[2:-30]):
            stored.write_bytes(broken)
            checks.clear()
            assert len(build_index(source, cache=tmp_path / "cache")) == 1
            assert len(checks) == 1

    def test_that_holds_objects_is_never_unpickled(self, make_source, tmp_path, checks):
        source = make_source([car()])
        build_index(source, cache=tmp_path / "cache")
        (stored,) = (tmp_path / "cache").iterdir()
        np.savez(stored, **{name: np.array([{"x": 1}], dtype=object) for name in index_module._TYPES})
        checks.clear()
        assert build_index(source, cache=tmp_path / "cache").reason.tolist() == [Reason.USABLE]
        assert len(checks) == 1

    def test_that_can_not_be_written_is_an_error(self, make_source, tmp_path):
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(DataError, match="can't be written"):
            build_index(make_source([car()]), cache=tmp_path / "cache")


def test_a_missing_file_is_an_error(make_source, tmp_path):
    source = dataclasses.replace(make_source([car()]), file=tmp_path / "none.json")
    for cache in (None, tmp_path):
        with pytest.raises(DataError, match=r"none\.json can't be read"):
            build_index(source, cache=cache)
