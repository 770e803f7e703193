"""Keys of every kind, and whose signatures count."""

import json
import resource
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from support import packages

from switchkd.errors import SkdError
from switchkd.export.shipping.signing import load_signer, make_key
from switchkd.runtime.packages.format import PackageError
from switchkd.runtime.packages.reader import verify_package
from switchkd.runtime.packages.signature import MAX_KEY, load_public_key, verify_signature


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


@pytest.mark.parametrize("room", [20, 115])
def test_a_full_disk_leaves_no_part_of_a_key(room, tmp_path):
    """Room for a part of the public half, and for that but not for the private one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(SkdError, match="can't be written: File too large"):
            make_key(tmp_path / "k", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_key_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in ("file/k", "file/more/k"):
        with pytest.raises(SkdError, match=r"file.* can't be made into a folder"):
            make_key(tmp_path / path, None)


def test_another_key(package, keys, tmp_path):
    _, other = packages.key_pair(tmp_path)
    with pytest.raises(PackageError, match="another key"):
        verify_package(package, [other])
    assert verify_package(package, [other, keys[1]]).key_id == keys[1].keyid


def test_a_signature_over_something_else(keys):
    """The same key signed the same bytes, but as another kind of document."""
    from securesystemslib.dsse import Envelope

    from switchkd.runtime.packages.signature import PAYLOAD_TYPE, detached

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
