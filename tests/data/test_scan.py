"""Record boundaries against json.loads, for any JSON and any buffer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchkd.data import scan
from switchkd.data.scan import scan_records
from switchkd.errors import DataError

strings = st.text(
    st.one_of(st.sampled_from('[]{}",:\\\n 好🚗é'), st.characters(exclude_categories=("Cs",))), max_size=12
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    records=st.lists(values, max_size=6),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
    chunk=st.integers(1, 40),
    bom=st.booleans(),
)
def test_slices_are_the_records(tmp_path_factory, records, ascii_only, indent, chunk, bom):
    file = tmp_path_factory.mktemp("scan") / "a.json"
    text = f" \n{json.dumps(records, ensure_ascii=ascii_only, indent=indent)}\n "
    file.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_CHUNK", chunk)
        places = list(scan_records(file))
    raw = file.read_bytes()
    assert [json.loads(raw[offset : offset + size]) for offset, size in places] == records
    assert all(raw[offset : offset + size].strip() == raw[offset : offset + size] for offset, size in places)


@settings(max_examples=100, deadline=None)
@given(records=st.lists(values, max_size=6), blank=st.lists(st.sampled_from(["", " ", "\r"]), min_size=7, max_size=7))
def test_lines_are_the_records(tmp_path_factory, records, blank):
    file = tmp_path_factory.mktemp("scan") / "a.jsonl"
    lines = [f"{space}\n{json.dumps(record)}" for space, record in zip(blank, records, strict=False)]
    file.write_text("\n".join([*lines, blank[-1]]), newline="")
    raw = file.read_bytes()
    assert [json.loads(raw[offset : offset + size]) for offset, size in scan_records(file)] == records


@settings(max_examples=200, deadline=None)
@given(
    records=st.lists(values, min_size=1, max_size=4), cut=st.floats(0, 1, exclude_max=True), chunk=st.integers(1, 40)
)
def test_a_file_cut_anywhere_is_an_error_inside_it(tmp_path_factory, records, cut, chunk):
    file = tmp_path_factory.mktemp("scan") / "a.json"
    whole = json.dumps(records, ensure_ascii=False).encode()
    file.write_bytes(whole[: int(cut * len(whole))])
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(DataError, match=r"isn't valid JSON at byte \d+: ") as caught,
    ):
        patch.setattr(scan, "_CHUNK", chunk)
        list(scan_records(file))
    assert 0 <= int(str(caught.value).split("at byte ")[1].split(":")[0]) <= len(whole)


@pytest.mark.parametrize(
    ("text", "byte"),
    [
        ('[{"a": 1}, {"b": 2]', 18),
        ('["é", }]', 7),
        ('[{"a": 1} {"b": 2}]', 10),
        ("[1, 2] 3", 7),
        ('{"data": []}', 0),
        ("[1,]", 3),
        ("", 0),
        ('["a\nb"]', 3),
    ],
)
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_the_broken_byte_is_named(tmp_path, monkeypatch, text, byte, chunk):
    monkeypatch.setattr(scan, "_CHUNK", chunk)
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(DataError, match=rf"a\.json isn't valid JSON at byte {byte}: "):
        list(scan_records(file))


def test_a_record_larger_than_the_buffer(tmp_path):
    records = [{"id": 1}, {"text": '好[{\\"' * 700_000}, {"id": 3}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(records, ensure_ascii=False))
    raw = file.read_bytes()
    assert [json.loads(raw[offset : offset + size]) for offset, size in scan_records(file)] == records


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_endless_record_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(scan, "MAX_RECORD", 5000)
    monkeypatch.setattr(scan, "_CHUNK", 100)
    file = tmp_path / name
    file.write_text('["' + "x" * 100_000 if name == "a.json" else "x" * 100_000)
    with pytest.raises(DataError):
        list(scan_records(file))
    file.write_text(json.dumps(["x" * 6000, "y"]))
    with pytest.raises(DataError, match="5,000 bytes"):
        list(scan_records(file))


def test_hostile_numbers_and_nesting_are_errors(tmp_path):
    for text in ("[" + "9" * 10_000 + "]", "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DataError, match="isn't valid JSON"):
            list(scan_records(tmp_path / "a.json"))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="can't be read"):
        list(scan_records(tmp_path / "a.json"))
