"""The package format: what is signed, what tar says of it, and a thousand ways to break it."""

import io
import json
import random
import tarfile
import tracemalloc
from pathlib import Path

import packages
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from switchkd.errors import SkdError
from switchkd.export.signing import load_signer, make_key, sign
from switchkd.runtime import package as format
from switchkd.runtime.install import Installation
from switchkd.runtime.package import BLOCK, END, MANIFEST, SIGNATURE, PackageError, Target, Targets, header, padding
from switchkd.runtime.package_reader import verify_folder, verify_package
from switchkd.runtime.signature import MAX_KEY, load_public_key, verify_signature


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """(signer, public key)"""
    return packages.key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def package(tmp_path_factory, keys) -> Path:
    return packages.write(tmp_path_factory.mktemp("package") / "tiny.tar", keys[0], packages.files())


def raw(signer, entries, targets: bytes, signature: bytes | None = None, end: bytes = END) -> bytes:
    """A package put together by hand, so that it may be wrong although it is signed."""
    parts = [(MANIFEST, targets), (SIGNATURE, signature or sign(targets, signer)), *entries]
    return b"".join(header(name, len(data)) + data + bytes(padding(len(data))) for name, data in parts) + end


def refused(content: bytes, key, folder: Path) -> str:
    """The one-line reason why `verify` refuses these bytes; `install` refuses them too and leaves no release."""
    folder.mkdir(exist_ok=True)
    path = folder / "broken.tar"
    path.write_bytes(content)
    with pytest.raises(PackageError) as error:
        verify_package(path, [key])
    reason = str(error.value)
    assert "\n" not in reason and len(reason) < 600 and reason.isprintable(), reason
    device = folder / "device"
    with pytest.raises(PackageError):
        Installation(device).install(path, [key])
    assert set(packages.tree(device)) <= {"releases"} and {each.name for each in folder.iterdir()} <= {
        "broken.tar",
        "device",
    }
    return reason


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
    st.dictionaries(
        names, st.builds(Target, st.integers(0, 8**11 - 1), st.from_regex(r"[0-9a-f]{64}", fullmatch=True))
    ),
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
    targets = Targets("tiny", "board", 1, {each: Target(1, "0" * 64) for each in contents})
    with pytest.raises(PackageError):
        targets.check()
    # The manifest is spelled and signed all the same, and such a name put in a header as far as it can be.
    entries = [(each.encode("ascii", "replace").decode()[:100], content) for each, content in sorted(contents.items())]
    refused(raw(keys[0], entries, targets.to_bytes()), keys[1], tmp_path / "out")


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
    refused(raw(keys[0], [], manifest), keys[1], tmp_path / "out")


def test_repeated_keys_of_json(package, keys, tmp_path):
    manifest = verify_package(package, [keys[1]]).manifest
    twice = manifest.replace(b'"release_counter": 1', b'"release_counter": 9,\n "release_counter": 1')
    assert twice != manifest
    refused(raw(keys[0], [], twice), keys[1], tmp_path / "out")


def test_limits_hold_before_the_signature(keys, tmp_path):
    for name, most in ((MANIFEST, format.MAX_MANIFEST), (SIGNATURE, format.MAX_SIGNATURE)):
        before = b"" if name == MANIFEST else header(MANIFEST, 0)
        reason = refused(before + header(name, most + 1) + bytes(2048), keys[1], tmp_path / "out")
        assert "is the most" in reason
    assert "cut off" in refused(header(MANIFEST, format.MAX_MANIFEST), keys[1], tmp_path / "out")


def test_a_declared_giant_is_refused_by_the_size_of_the_file(keys, tmp_path):
    targets = Targets("tiny", "board", 1, {"giant": Target(8**11 - 1, "0" * 64)})
    reason = refused(raw(keys[0], [], targets.to_bytes()), keys[1], tmp_path / "out")
    assert "it has to have" in reason


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
def test_compressed_packages_are_refused(module, package, keys, tmp_path):
    import importlib

    content = importlib.import_module(module).compress(package.read_bytes())
    assert "compressed by" in refused(content, keys[1], tmp_path / "out")


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


# Signatures -----------------------------------------------------------------------------------------------------------


def write_pair(folder: Path, private) -> None:
    """As OpenSSL would."""
    (folder / "k").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "k.pub").write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_keys_of_other_tools(curve, tmp_path):
    write_pair(tmp_path, ec.generate_private_key(curve()))
    signer, public = load_signer(tmp_path / "k", lambda: ""), load_public_key(tmp_path / "k.pub")
    path = packages.write(tmp_path / "p.tar", signer, packages.files())
    assert verify_package(path, [public]).key_id == public.keyid


@pytest.mark.parametrize("private", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())])
def test_other_kinds_of_keys(private, tmp_path):
    write_pair(tmp_path, private)
    for load in (lambda: load_signer(tmp_path / "k", lambda: ""), lambda: load_public_key(tmp_path / "k.pub")):
        with pytest.raises(SkdError, match="Ed25519 or ECDSA"):
            load()


def test_key_files(tmp_path):
    make_key(tmp_path / "k", "horse")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600 and b"ENCRYPTED" in (tmp_path / "k").read_bytes()
    signer = load_signer(tmp_path / "k", lambda: "horse")
    assert signer.public_key.keyid == load_public_key(tmp_path / "k.pub").keyid
    with pytest.raises(SkdError, match="this passphrase"):
        load_signer(tmp_path / "k", lambda: "donkey")
    with pytest.raises(SkdError, match="already there"):
        make_key(tmp_path / "k", None)
    (tmp_path / "k.pub").rename(tmp_path / "kept.pub")
    with pytest.raises(SkdError, match="already there"):
        make_key(tmp_path / "k", None)
    assert not (tmp_path / "k.pub").exists()
    with pytest.raises(SkdError, match="private key, which no device"):
        load_public_key(tmp_path / "k")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "long").write_bytes(bytes(MAX_KEY + 1))
    for name in ("text", "long", "nothing", "."):
        for load in (load_public_key, lambda path: load_signer(path, lambda: "")):
            with pytest.raises(SkdError) as error:
                load(tmp_path / name)
            assert "\n" not in str(error.value)


def test_another_key(package, keys, tmp_path):
    _, other = packages.key_pair(tmp_path)
    with pytest.raises(PackageError, match="another key"):
        verify_package(package, [other])
    assert verify_package(package, [other, keys[1]]).key_id == keys[1].keyid


def test_a_signature_over_something_else(keys):
    """The same key signed the same bytes, but as another kind of document."""
    from securesystemslib.dsse import Envelope

    from switchkd.runtime.signature import PAYLOAD_TYPE, detached

    envelope = Envelope(b"{}", "application/other", {})
    envelope.sign(keys[0])
    text = detached(envelope)
    for signature in (text, text.replace(b"application/other", PAYLOAD_TYPE.encode())):
        with pytest.raises(PackageError):
            verify_signature(b"{}", signature, [keys[1]])


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.just("0" * 64),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig"]), inner)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_signature_file_is_refused(content):
    with pytest.raises(PackageError):
        verify_signature(b"{}", content, [])


def test_a_signature_has_one_spelling(package, keys):
    head = verify_package(package, [keys[1]])
    value = json.loads(head.signature)
    variants = [json.dumps(value).encode(), head.signature + b"\n", head.signature.replace(b"==", b"=")]
    variants += [(json.dumps(value | {"x": 1}, indent=1) + "\n").encode()]
    value["signatures"][0]["x"] = 1
    variants += [(json.dumps(value, indent=1) + "\n").encode()]
    del value["signatures"][0]["x"]
    value["signatures"] *= 2
    variants += [(json.dumps(value, indent=1) + "\n").encode()]
    for content in variants:
        with pytest.raises(PackageError):
            verify_signature(head.manifest, content, [keys[1]])


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
    elif kind == "signature":
        (folder / SIGNATURE).unlink()
    elif kind == "long manifest":
        (folder / MANIFEST).write_bytes(bytes(format.MAX_MANIFEST + 1))


@pytest.mark.parametrize(
    "kind", ["flip", "more", "folder", "fewer", "longer", "link", "folder link", "signature", "long manifest"]
)
def test_damaged_folders(kind, package, keys, tmp_path):
    folder = Installation(tmp_path / "device").install(package, [keys[1]]).folder
    assert verify_folder(folder, [keys[1]]).targets.release == 1
    break_folder(folder, kind)
    with pytest.raises(PackageError):
        verify_folder(folder, [keys[1]])


# A thousand mutations --------------------------------------------------------------------------------------------------


def members(content: bytes) -> list[tuple[int, int]]:
    """(start, end) of each file with its header."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        return [(m.offset, m.offset_data + m.size + padding(m.size)) for m in archive.getmembers()]


def rebuilt(content: bytes, change) -> bytes:
    """Through Python's own tar writer: `change` gets and returns a list of (TarInfo, bytes)."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        entries = [(m, archive.extractfile(m).read()) for m in archive.getmembers()]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for info, data in change(entries):
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def pick(rng, entries):
    """A place in the list: mostly any, often behind the signed head."""
    return rng.randrange(len(entries)) if rng.random() < 0.3 else rng.randrange(2, len(entries))


def flip(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def flip_in_header(content, rng):
    start, _ = rng.choice(members(content))
    place = start + rng.randrange(BLOCK)
    return content[:place] + rng.randbytes(1) + content[place + 1 :]


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def extend(content, rng):
    return content + rng.choice([bytes(512), b"x", rng.randbytes(700), content])


def insert(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(rng.choice([1, 512, 4096])) + content[place:]


def remove_bytes(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + content[place + rng.choice([1, 512, 1024]) :]


def remove(content, rng):
    start, end = rng.choice(members(content))
    return content[:start] + content[end:]


def duplicate(content, rng):
    start, end = rng.choice(members(content))
    place = rng.choice([start, end, len(content) - len(END)])
    return content[:place] + content[start:end] + content[place:]


def swap(content, rng):
    (a, b), (c, d) = sorted(rng.sample(members(content), 2))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def swap_contents(content, rng):
    def change(entries):
        i, j = rng.sample(range(2, len(entries)), 2)
        (one, a), (two, b) = entries[i], entries[j]
        one.size, two.size = len(b), len(a)
        entries[i], entries[j] = (one, b), (two, a)
        return entries

    return rebuilt(content, change)


def rename(content, rng):
    def change(entries):
        info, _ = entries[pick(rng, entries)]
        info.name = rng.choice(
            ["other", "../evil", "/tmp/evil", "a/../../evil", "./run", "RUN", "ü" * 60, "x/" * 200, info.name + "x"]
        )
        return entries

    return rebuilt(content, change)


def add(content, rng):
    def change(entries):
        info = tarfile.TarInfo(rng.choice(["new", "../new", "/new", "variant/new", "variant/../../new", "x" * 300]))
        data = rng.randbytes(rng.choice([0, 10, 600]))
        info.size = len(data)
        entries.insert(pick(rng, entries), (info, data))
        return entries

    return rebuilt(content, change)


TYPES = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE,
         tarfile.GNUTYPE_SPARSE, b"V", b"Z"]  # fmt: skip
PAX = [
    {"path": "../evil"}, {"size": "1"}, {"size": str(10**18)}, {"linkpath": "/"}, {"comment": "x" * 9999},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**15)},
]  # fmt: skip


def retype(content, rng):
    def change(entries):
        info, _ = entries[pick(rng, entries)]
        info.type = rng.choice(TYPES)
        info.linkname = rng.choice(["/etc/passwd", "../..", "run", "x" * 300])
        return entries

    return rebuilt(content, change)


def link_before(content, rng):
    """A link to elsewhere, then a file through it."""

    def change(entries):
        link = tarfile.TarInfo("variant")
        link.type, link.linkname = tarfile.SYMTYPE, "../.."
        entries.insert(pick(rng, entries), (link, b""))
        return entries

    return rebuilt(content, change)


def metadata(content, rng):
    def change(entries):
        info, _ = entries[pick(rng, entries)]
        attribute, value = rng.choice(
            [("mode", 0o4755), ("uid", 1000), ("gid", 7), ("mtime", 1), ("mtime", 1.5), ("uname", "root")]
        )
        setattr(info, attribute, value)
        return entries

    return rebuilt(content, change)


def pax(content, rng):
    def change(entries):
        info, _ = entries[pick(rng, entries)]
        info.pax_headers = rng.choice(PAX)
        return entries

    return rebuilt(content, change)


def huge_header(content, rng):
    """A length far beyond the file, in octal or base 256, with the right sum."""
    start, _ = rng.choice(members(content))
    block = bytearray(content[start : start + BLOCK])
    block[124:136] = rng.choice([b"77777777777\0", b"\x80" + bytes(3) + b"\x7f" * 8, b"\xff" * 12, b"-0000000001\0"])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return content[:start] + bytes(block) + content[start + BLOCK :]


def zero_blocks(content, rng):
    """An end of the archive before its end."""
    start, _ = rng.choice(members(content))
    return content[:start] + END + content[start:]


def garbage(content, rng):
    return rng.choice(
        [b"", rng.randbytes(3000), bytes(4096), b"\x1f\x8b" + rng.randbytes(900), b"[" * 3000, b"PK\3\4" * 300]
    )


def other_format(content, rng):
    out = io.BytesIO()
    form = rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=out, mode="w", format=form) as new:
        for info in old.getmembers():
            info.mtime = 1.25 if form == tarfile.PAX_FORMAT else 0
            new.addfile(info, old.extractfile(info))
    return out.getvalue()


MUTATIONS = [
    flip, flip, flip_in_header, cut, extend, insert, remove_bytes, remove, duplicate, swap, swap_contents, rename, add, retype,
    link_before, metadata, pax, huge_header, zero_blocks, garbage, other_format,
]  # fmt: skip


def test_a_thousand_mutations(package, keys, tmp_path):
    """All refused with one line, by `verify` and by `install`; nothing is written but an empty folder of releases."""
    content = package.read_bytes()
    outside = tmp_path / "outside"
    outside.mkdir()
    for seed in range(1000):
        rng = random.Random(seed)
        mutation = MUTATIONS[seed % len(MUTATIONS)]
        broken = mutation(content, rng)
        assert broken != content, mutation.__name__
        try:
            refused(broken, keys[1], tmp_path / "work")
        except BaseException as error:
            raise AssertionError(f"{mutation.__name__}, seed {seed}") from error
        assert {each.name for each in tmp_path.iterdir()} == {"outside", "work"} and not list(outside.iterdir())
