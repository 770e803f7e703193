"""The package format: what is signed, what tar says of it, and what a damaged folder is."""

import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import packages

from switchkd.export.shipping.signing import sign
from switchkd.runtime.packages import format as format
from switchkd.runtime.packages.format import END, MANIFEST, SIGNATURE, Entry, PackageError, Targets, header, padding
from switchkd.runtime.packages.install import Installation
from switchkd.runtime.packages.reader import verify_folder, verify_package


def raw(signer, entries, targets: bytes, signature: bytes | None = None, end: bytes = END) -> bytes:
    """A package put together by hand, so that it may be wrong although it is signed."""
    parts = [(MANIFEST, targets), (SIGNATURE, signature or sign(targets, signer)), *entries]
    return b"".join(header(name, len(data)) + data + bytes(padding(len(data))) for name, data in parts) + end


# The format ------------------------------------------------------------------------------------------------------------


def test_right_packages_are_accepted(package, keys):
    head = verify_package(package, [keys[1]])
    assert head.targets == Targets.from_bytes(head.manifest) and head.key_id == keys[1].keyid
    assert set(head.targets.files) == set(packages.files())


def test_the_same_inputs_give_the_same_bytes(package, keys, tmp_path):
    again = packages.write(tmp_path / "again.tar", keys[0], dict(reversed(packages.files().items())))
    assert again.read_bytes() == package.read_bytes()


def test_python_and_tar_read_the_same_files(package):
    with tarfile.open(package, "r:") as archive:
        members = archive.getmembers()
        assert [each.name for each in members][:2] == [MANIFEST, SIGNATURE]
        assert [each.name for each in members][2:] == sorted(packages.files())
        for each in members:
            assert each.isreg() and (each.uid, each.gid, each.mtime, each.uname, each.gname) == (0, 0, 0, "", "")
            assert each.mode == (0o755 if each.name == "run" else 0o644)
        for name, content in packages.files().items():
            assert archive.extractfile(name).read() == content


@pytest.mark.parametrize(("name", "length"), [("run", 0), ("variant/onnx/a.onnx", 8**11 - 1), ("a" * 100, 12345)])
def test_headers_mean_the_same_to_tarfile(name, length):
    info = tarfile.TarInfo.frombuf(header(name, length), "ascii", "strict")  # checks the sum
    assert (info.name, info.size, info.type) == (name, length, tarfile.REGTYPE)


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,8}){0,3}", fullmatch=True)
targets_of = st.builds(
    Targets,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", fullmatch=True),
    st.just("board"),
    st.integers(1, 2**31 - 1),
    st.dictionaries(names, st.builds(Entry, st.integers(0, 8**11 - 1), st.from_regex(r"[0-9a-f]{64}", fullmatch=True))),
)


@settings(deadline=None)
@given(targets_of)
def test_what_is_signed_reads_back(targets):
    try:
        targets.check()
    except PackageError as error:
        assert "same file" in str(error)
        return
    assert Targets.from_bytes(targets.to_bytes()) == targets


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["targets", "schema", "name", "release_counter", "hashes", "length", "a/b"]), inner
            )
        ),
    )
)
def test_any_json_is_read_or_refused(value):
    with pytest.raises(PackageError):
        Targets.from_bytes(json.dumps(value).encode())


BAD_NAMES = [
    "../a", "/etc/passwd", "a/../../b", "a//b", "./a", "a/", "", ".", "..", "a/.b", ".a", "a\\b", "a\0b", "a\nb", "c:/a", "ä",
    "a b", "x" * 101, "\x1b[31m", MANIFEST, SIGNATURE, "TARGETS.json", "run/x", "Run", "con\u202e",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_even_signed_names_stay_inside(name, keys, tmp_path):
    """A signer that was fooled must not fool the device."""
    contents = {"run": b"x", name: b"evil"}
    targets = Targets("tiny", "board", 1, {each: Entry(1, "0" * 64) for each in contents})
    with pytest.raises(PackageError):
        targets.check()
    # The manifest is spelled and signed all the same, and such a name put in a header as far as it can be.
    entries = [(each.encode("ascii", "replace").decode()[:100], content) for each, content in sorted(contents.items())]
    packages.refused(raw(keys[0], entries, targets.to_bytes()), keys[1], tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"schema": 0}, {"schema": None}, {"release_counter": 0}, {"release_counter": -1}, {"release_counter": 2**31},
        {"release_counter": True}, {"release_counter": "1"}, {"release_counter": 1.0}, {"name": ""}, {"name": "a/b"}, {"name": 7},
        {"hardware_id": "\n"}, {"_type": "root"}, {"more": 1}, {"targets": []}, {"targets": None}, {"targets": {"a": {}}},
        {"targets": {"a": {"length": -1, "hashes": {"sha256": "0" * 64}}}},
        {"targets": {"a": {"length": 8**11, "hashes": {"sha256": "0" * 64}}}},
        {"targets": {"a": {"length": 1.5, "hashes": {"sha256": "0" * 64}}}},
        {"targets": {"a": {"length": 1, "hashes": {"sha256": "0" * 63}}}},
        {"targets": {"a": {"length": 1, "hashes": {"md5": "0" * 32}}}},
        {"targets": {f"f{n}": {"length": 0, "hashes": {"sha256": "0" * 64}} for n in range(4097)}},
    ],
    ids=lambda change: str(change)[:50],
)  # fmt: skip
def test_even_signed_values_keep_their_limits(change, package, keys, tmp_path):
    value = json.loads(verify_package(package, [keys[1]]).manifest) | change
    manifest = (json.dumps(value, indent=1) + "\n").encode()
    packages.refused(raw(keys[0], [], manifest), keys[1], tmp_path / "out")


def test_repeated_keys_of_json(package, keys, tmp_path):
    manifest = verify_package(package, [keys[1]]).manifest
    twice = manifest.replace(b'"release_counter": 1', b'"release_counter": 9,\n "release_counter": 1')
    assert twice != manifest
    packages.refused(raw(keys[0], [], twice), keys[1], tmp_path / "out")


def test_limits_hold_before_the_signature(keys, tmp_path):
    for name, most in ((MANIFEST, format.MAX_MANIFEST), (SIGNATURE, format.MAX_SIGNATURE)):
        before = b"" if name == MANIFEST else header(MANIFEST, 0)
        reason = packages.refused(before + header(name, most + 1) + bytes(2048), keys[1], tmp_path / "out")
        assert "is the most" in reason
    assert "cut off" in packages.refused(header(MANIFEST, format.MAX_MANIFEST), keys[1], tmp_path / "out")


def test_a_declared_giant_is_refused_by_the_size_of_the_file(keys, tmp_path):
    targets = Targets("tiny", "board", 1, {"giant": Entry(8**11 - 1, "0" * 64)})
    reason = packages.refused(raw(keys[0], [], targets.to_bytes()), keys[1], tmp_path / "out")
    assert "it has to have" in reason


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
def test_compressed_packages_are_refused(module, package, keys, tmp_path):
    import importlib

    content = importlib.import_module(module).compress(package.read_bytes())
    assert "compressed by" in packages.refused(content, keys[1], tmp_path / "out")


def test_memory_stays_bounded(keys, tmp_path):
    """Reading 48 MB takes a few."""
    large = packages.write(tmp_path / "large.tar", keys[0], packages.files(big=48_000_000))
    tracemalloc.start()
    try:
        verify_package(large, [keys[1]])
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_what_is_no_file(keys, tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, reason in (("pipe", "no ordinary file"), ("folder", "no ordinary file"), ("nothing", "No such file")):
        with pytest.raises(PackageError, match=reason):
            verify_package(tmp_path / name, [keys[1]])


# Installed folders ----------------------------------------------------------------------------------------------------


def break_folder(folder: Path, kind: str) -> None:
    inner = folder / "variant" / "onnx" / "a.onnx"
    if kind == "flip":
        inner.write_bytes(bytes([inner.read_bytes()[0] ^ 1]) + inner.read_bytes()[1:])
    elif kind == "more":
        (folder / "variant" / "more").write_text("x")
    elif kind == "folder":
        (folder / "empty").mkdir()
    elif kind == "fewer":
        inner.unlink()
    elif kind == "longer":
        inner.write_bytes(inner.read_bytes() + b"x")
    elif kind == "link":
        inner.rename(folder.parent / "moved")
        inner.symlink_to(folder.parent / "moved")
    elif kind == "folder link":
        (folder / "variant" / "onnx").rename(folder.parent / "moved")
        (folder / "variant" / "onnx").symlink_to(folder.parent / "moved")
    elif kind == "mode":
        (folder / "run").chmod(0o600)
    elif kind == "open to all":
        inner.chmod(0o666)
    elif kind == "folder mode":
        (folder / "variant").chmod(0o777)
    elif kind == "signature":
        (folder / SIGNATURE).unlink()
    elif kind == "long manifest":
        (folder / MANIFEST).write_bytes(bytes(format.MAX_MANIFEST + 1))


@pytest.mark.parametrize(
    "kind",
    [
        "flip",
        "more",
        "folder",
        "fewer",
        "longer",
        "link",
        "folder link",
        "mode",
        "open to all",
        "folder mode",
        "signature",
        "long manifest",
    ],
)
def test_damaged_folders(kind, package, keys, tmp_path):
    folder = Installation(tmp_path / "device").install(package, [keys[1]]).folder
    assert verify_folder(folder, [keys[1]]).targets.release == 1
    break_folder(folder, kind)
    with pytest.raises(PackageError):
        verify_folder(folder, [keys[1]])
