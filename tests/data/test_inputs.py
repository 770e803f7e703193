"""docs/inputs.md, row by row: records that are usable are used, and those that aren't go by the reason that the page gives."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.inputs_page import LIMIT, PAGE, asked, outcomes, rows
from support.llava_files import IMAGE_TOKENS, turns
from support.pictures import noise
from support.tokenizers import small_prompt

from switchkd.data.index import Source, build_index
from switchkd.data.reasons import BadRecordError, Reason
from switchkd.data.records import read_record
from switchkd.data.usability import count_usable
from switchkd.errors import DataError

SAID = turns("What is it?", "A car.")
SEEN = turns("<image>\nWhat is it?", "A car.")


def about(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"image": "car.png", "conversations": turns(*texts), **fields}


def messages(*contents: Any, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)], **fields}


PARTS = [{"type": "image"}, {"type": "text", "text": "What is it?"}]

# Each row's records: every one of them has the row's outcome.
RECORDS: dict[str, list[Any]] = {
    "`conversations` of `human` and `gpt` turns": [about("<image>\nWhat is it?", "A car.")],
    "`conversations` of `user` and `assistant` turns": [
        {"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}
    ],
    "`messages` with `role` and `content`": [
        messages("What?", "A car."),
        messages("<image>\nWhat?", "A car.", image="car.png"),
        messages("<image>\nWhat?", "A car.", images=["car.png"]),
    ],
    "`content` as a list of text and image parts": [
        messages(PARTS, "A car.", images=["car.png"]),
        messages(PARTS[::-1], "A car.", image="car.png"),
        messages([{"type": "text", "text": "2 + 2?"}], [{"type": "text", "text": "4"}]),
    ],
    "several turns, a `system` turn before them": [
        {"image": "car.png", "conversations": turns("<image>\na", "b", "c", "d", system="Be brief.")},
        {"messages": [{"role": "system", "content": "x"}, *messages("a", "b")["messages"]]},
    ],
    "a turn of `gpt` before the first question": [
        {"conversations": [{"from": "gpt", "value": "Hello!"}, *SAID]},
        {"image": "car.png", "conversations": [{"from": "gpt", "value": "Hello!"}, *SEEN]},
        {"conversations": [{"from": "system", "value": "x"}, {"from": "gpt", "value": "Hello!"}, *SAID]},
        {"messages": [{"role": "assistant", "content": "Hello!"}, *messages("a", "b")["messages"]]},
    ],
    "no picture: no field, null, an empty text or list": [
        {"conversations": SAID, **fields}
        for fields in ({}, {"image": None}, {"image": ""}, {"image": []}, {"images": []}, {"image": [""]})
    ],
    "the picture in a list of one, as `image` or `images`": [
        {"conversations": SEEN, **fields}
        for fields in ({"image": ["car.png"]}, {"images": ["car.png"]}, {"image": "car.png", "images": ["car.png"]})
    ],
    "several pictures in a list, each with its `<image>`, in one question or over several": [
        {"conversations": talk, **fields}
        for talk in (
            turns("<image>\n<image>\nWhat?", "Cars."),
            turns("<image><image>\nWhat?", "Cars."),
            turns("What?\n<image> <image>", "Cars."),
            turns("Is what <image> shows in <image> too?", "Yes."),
            turns("<image>\nWhat?", "A car.", "<image>\nAnd here?", "One too."),
            messages([{"type": "image"}, *PARTS], "Cars.")["messages"],
        )
        for fields in (
            {"image": ["car.png", "car.png"]},
            {"images": ["car.png", "sub/car.png"]},
            {"image": ["car.png", "sub/car.png"], "images": ["car.png", "sub/car.png"]},
        )
    ],
    "more pictures than `<image>`, or fewer": [
        {"conversations": SEEN, "image": ["car.png", "car.png"]},
        {"conversations": turns("<image><image><image>\nWhat?", "Cars."), "image": ["car.png", "car.png"]},
        {"conversations": turns("<image>\nWhat?", "A car.", "And <image> here?", "Yes."), "image": ["car.png"] * 3},
        {"conversations": turns("What?", "Cars."), "images": ["car.png", "sub/car.png"]},
    ],
    "`image` and `images` that name different pictures": [
        {"conversations": SEEN, "image": "car.png", "images": ["sub/car.png"]},
        {
            "conversations": turns("<image><image>\nWhat?", "b"),
            "image": "car.png",
            "images": ["car.png", "sub/car.png"],
        },
    ],
    "`<image>` at the end of a question, or in a later one": [
        about("What is it?\n<image>", "A car."),
        about("What is it? <image>", "A car."),
        about("Hello", "Hi.", "<image>\nWhat is it?", "A car."),
        about("What is in <image> here?", "A car."),
    ],
    "`<image>` within the words of a talk without a picture": [
        {"conversations": turns("How does the <image> tag differ from <img>?", "It was never in HTML.")},
        {"conversations": turns("Fill in:\n<image>\n  <url/>\n</image>", "Done.")},
        {"conversations": turns("What is XML?", "For example <image> and </image>.")},
    ],
    "`<image>` at an end of a line, but no picture": [
        {"conversations": turns("<image>\nWhat is it?", "A car.")},
        {"conversations": turns("What is it?\n<image>", "A car.")},
        {"conversations": turns("What is it? <image>", "A car."), "image": ""},
    ],
    "a picture, but no `<image>`": [
        about("What is it?", "A car."),
        about("What is it?", "<image>"),
        messages("What?", "A car.", images=["car.png"]),
    ],
    "one picture, but two `<image>`": [
        about("<image><image>\nWhat?", "A car."),
        about("<image> <image>", "A car."),
        about("<image>\nWhat?", "A car.", "<image>\nAnd now?", "A car."),
        messages([{"type": "image"}, *PARTS], "A car.", image="car.png"),
    ],
    "a picture that isn't named by a text": [
        {"conversations": SEEN, "image": value} for value in (5, True, {"path": "car.png"}, [["car.png"]])
    ]
    + [messages([{"type": "image", "image": "car.png"}, PARTS[1]], "A car.")],
    "a field that names a film, sound, depth map, point cloud": [
        {"conversations": SAID, "video": "a.mp4"},
        {"conversations": turns("<video>\nWhat?", "A car."), "video": "a.mp4"},
        {"conversations": SAID, "videos": ["a.mp4", "b.mp4"]},
        {"conversations": SAID, "audio": "a.wav"},
        {"conversations": SAID, "audio_path": "a.wav"},
        {"conversations": SAID, "Sound": {"path": "a.wav"}},
        {"conversations": SEEN, "image": "car.png", "depth": "car_depth.png"},
        {"conversations": SEEN, "image": "car.png", "point_cloud": "car.bin"},
    ],
    "`<video>`, `<audio>`, `<depth>` … at an end of a line": [
        {"conversations": turns(text, "A car.")}
        for text in ("<video>\nWhat?", "What?\n<audio>", "What? <speech>", "<image>\n<depth>\nWhat?")
    ]
    + [about("<image><depth>\nHow far?", "Near.")],
    "`<video>` as HTML, or within a sentence": [
        {"conversations": turns("Is this right?\n<video>\n<source src=a.mp4>\n</video>", "Yes.")},
        {"conversations": turns("What does the <audio> tag do?", "It plays sound.")},
        {"conversations": turns("Which tag shows films?", "<video>")},
        {"conversations": SAID, "video": None, "audio": "", "depth": 3, "videos": []},
    ],
    "no turns, or turns of another form": [
        {"id": "x"},
        {"conversations": []},
        {"conversations": "What?"},
        {"messages": {"role": "user"}},
        {"conversations": [{"from": "tool", "value": "x"}]},
        {"conversations": [{"from": "human", "value": 5}, {"from": "gpt", "value": "b"}]},
        {"conversations": ["What?", "A car."]},
        messages([{"type": "video", "video": "a.mp4"}], "A car."),
    ],
    "no answer with text": [{"conversations": turns("a")}, {"conversations": turns("a", " \n")}, messages("a", "")],
    "turns that don't alternate": [
        {"conversations": turns("a", "b", "c")},
        {"conversations": turns("a", "b")[::-1]},
        {"conversations": [*turns("a", "b"), {"from": "gpt", "value": "c"}]},
        {"conversations": [*turns("a", "b"), {"from": "system", "value": "c"}]},
        {"conversations": [{"from": "gpt", "value": "alone"}]},
    ],
    "text with a lone surrogate or a noncharacter (U+FDD0 to U+FDD2)": [
        {"conversations": turns("a \ud800", "b")},
        {"conversations": turns("a", "b \udfff")},
        {"conversations": turns("a \ufdd1", "b")},
    ],
    "more tokens than `--max-length` (`data.max_length`)": [
        {"conversations": turns("a", "b " * LIMIT)},
        {"conversations": turns("a " * LIMIT, "b")},
        about("<image>\n" + "a " * LIMIT, "b"),
    ],
    "something else than an object": [[1, 2], "text", 5, None],
}

FILES: dict[str, dict[str, bytes]] = {}  # row → {name: content}; filled below
LIST = json.dumps([{"conversations": SAID}] * 2).encode()
LINE = json.dumps({"conversations": SAID}).encode()
FILES |= {
    "one list, named `.json`": {"a.json": LIST, "b.json": json.dumps(json.loads(LIST), indent=2).encode()},
    "one record a line, named `.jsonl` or `.ndjson`": {"a.jsonl": LINE + b"\n" + LINE, "a.ndjson": LINE + b"\n"},
    "the same names in capitals": {"a.JSON": LIST, "a.JSONL": LINE + b"\n" + LINE, "a.NDJson": LINE},
    "blank lines, Windows' line ends, a byte order mark": {
        "a.jsonl": LINE + b"\n\n" + LINE + b"\n\n",
        "b.jsonl": LINE + b"\r\n" + LINE + b"\r\n",
        "c.json": b"\xef\xbb\xbf" + LIST,
        "d.jsonl": b"\xef\xbb\xbf" + LINE,
    },
    "a line that isn't JSON": {"a.jsonl": LINE[:-9], "b.jsonl": b"text", "c.jsonl": b"{'a': 1}"},
    "bytes that aren't UTF-8 (Latin-1) inside a record": {
        "a.json": LIST.replace(b"What", b"caf\xe9"),
        "b.jsonl": LINE.replace(b"What", b"caf\xe9"),
        "c.jsonl": LINE.replace(b"What", b"\xff\xfe"),
    },
    "one list in a file named `.jsonl`": {"a.jsonl": LIST, "b.jsonl": b"[" + LINE + b"]\n", "c.ndjson": LIST},
    "one record a line in a file named `.json`": {"a.json": LINE + b"\n" + LINE, "b.json": LINE, "c": LINE},
    'an object around the list (`{"data": […]}`)': {
        "a.json": b'{"data": ' + LIST + b"}",
        "b.json": b'{\n "train": ' + LIST + b"\n}",
        "c.json": b"{}",
    },
    "a list that breaks off": {"a.json": LIST[:-1], "b.json": LIST[:40], "c.json": b"["},
    "UTF-16 or UTF-32": {
        f"{name}.json": LIST.decode().encode(name) for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
    },
    "a gzip or zip archive, a Parquet table": {
        "a.json": gzip.compress(LIST),
        "b.json": b"PK\x03\x04" + bytes(30),
        "c.jsonl": b"PAR1" + bytes(30),
    },
}


def paths(images: Path) -> dict[str, list[str]]:
    """Row → names of pictures; the folder has car.png, sub/car.png and the links inner.png, outer.png and away/."""
    return {
        "of a file in the folder, or below it": ["car.png", "sub/car.png", "./car.png", "sub//car.png"],
        "absolute, into the folder": [
            str(images / "car.png"),
            str(images / "sub" / "car.png"),
            str(images.parent / "link/car.png"),
        ],
        "with Windows' separators": ["sub\\car.png", ".\\car.png", ".\\sub\\car.png"],
        "through a link that stays inside": ["inner.png", "within/car.png", "sub/up.png"],
        "through a link that leads out": ["outer.png", "away/car.png", str(images / "outer.png")],
        "through a link that leads out, with `--follow-links`": [
            "outer.png",
            "away/car.png",
            str(images / "outer.png"),
        ],
        "with `..`, or absolute to elsewhere": [
            "../out/car.png",
            "sub/../car.png",
            "..\\out\\car.png",
            str(images.parent / "out" / "car.png"),
            "/etc/hostname",
        ],
        "of no file, or with other capitals": [
            "none.png",
            "Car.PNG",
            "sub",
            "images/car.png",
            "C:\\car.png",
            "a\0b",
            "x" * 5000,
        ],
    }


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for place in (folder / "sub", tmp_path / "out"):
        place.mkdir(parents=True)
        noise((40, 30)).save(place / "car.png")
    noise((40, 30)).save(folder / "car.png")
    (folder / "inner.png").symlink_to(folder / "car.png")
    (folder / "within").symlink_to(folder / "sub")
    (folder / "sub" / "up.png").symlink_to("../car.png")
    (folder / "outer.png").symlink_to(tmp_path / "out" / "car.png")
    (folder / "away").symlink_to(tmp_path / "out")
    (tmp_path / "link").symlink_to(folder)
    return folder


@pytest.mark.parametrize(("row", "outcome"), asked("file"))
def test_files_of_records(row, outcome, tmp_path, images):
    for name, content in FILES[row].items():
        (tmp_path / name).write_bytes(content)
        assert outcomes(tmp_path / name, images) == {outcome}, name


@pytest.mark.parametrize(("row", "outcome"), asked("record"))
def test_records(row, outcome, tmp_path, images):
    for record in RECORDS[row]:
        (tmp_path / "data.json").write_text(json.dumps([record]))
        assert outcomes(tmp_path / "data.json", images) == {outcome}, record


@pytest.mark.parametrize(("row", "outcome"), asked("path"))
def test_paths_of_pictures(row, outcome, tmp_path, images):
    for name in paths(images)[row]:
        (tmp_path / "data.json").write_text(json.dumps([{"image": name, "conversations": SEEN}]))
        found = outcomes(tmp_path / "data.json", images, follow_links="--follow-links" in row)
        assert found == {outcome}, name


def test_every_row_has_its_inputs_and_every_reason_a_row(tmp_path):
    for kind, cases in {"file": FILES, "record": RECORDS, "path": paths(tmp_path)}.items():
        assert set(rows(kind)) == set(cases), kind
    named = {outcome for kind in ("file", "record", "path", "picture") for outcome in rows(kind).values()}
    assert named - {"refused"} == {reason.name.lower() for reason in Reason}


def read(record: dict[str, Any]) -> Any:
    try:
        return read_record(json.dumps(record).encode())
    except BadRecordError as error:
        return error.reason


def renamed(value: Any, field: str) -> Any:
    """The same with another name for this field, however deep it lies."""
    if isinstance(value, list):
        return [renamed(item, field) for item in value]
    if isinstance(value, dict):
        return {f"my_{name}" if name == field else name: renamed(item, field) for name, item in value.items()}
    return value


def test_the_fields_that_the_page_lists_are_those_that_are_read():
    table = PAGE.read_text(encoding="utf-8").split("| field | holds |\n")[1].split("\n\n")[0]
    listed = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[1:])))
    whole = [
        {"id": "a", "kind": "b", "image": "car.png", "conversations": SEEN},
        messages("<image>\nWhat?", "A car.", images=["car.png"]),
    ]
    assert listed == {
        name
        for record in whole
        for part in (record, *record.get("conversations", record.get("messages")))
        for name in part
    }
    for field in listed:
        record = next(record for record in whole if record != renamed(record, field))
        assert read(record) != read(renamed(record, field)), field
        assert read(record) == read({**record, "width": 3, "source": "coco", "score": None})


def test_a_link_that_leads_out_is_told_with_the_cure(tmp_path, images):
    (tmp_path / "data.json").write_text(json.dumps([{"image": "outer.png", "conversations": SEEN}]))
    source = Source(tmp_path / "data.json", images, small_prompt(), image_tokens=IMAGE_TOKENS, max_length=LIMIT)
    with pytest.raises(DataError, match=r"through a link; allow that with --follow-links"):
        count_usable(source, build_index(source)).check()
