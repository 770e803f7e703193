"""A thousand ways to break a package, all of them refused."""

import io
import random
import tarfile

import pytest
from support import packages

from switchkd.runtime.packages.format import BLOCK, END, padding


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """(signer, public key)"""
    return packages.key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def package(tmp_path_factory, keys):
    return packages.write(tmp_path_factory.mktemp("package") / "tiny.tar", keys[0], packages.files())


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


@pytest.mark.long
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
            packages.refused(broken, keys[1], tmp_path / "work")
        except BaseException as error:
            raise AssertionError(f"{mutation.__name__}, seed {seed}") from error
        assert {each.name for each in tmp_path.iterdir()} == {"outside", "work"} and not list(outside.iterdir())
