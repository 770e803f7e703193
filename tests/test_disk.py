"""Full disks, mount points, layers and file systems without flushes: real ones where this computer allows them."""

import errno
import os

import pytest
from support.mounts import layers, small_disk, with_mounts

from switchkd.disk import flush_folder, require_replaceable, why_full
from switchkd.errors import SkdError
from switchkd.files import replacing_folder

REPLACE = """
import sys
from pathlib import Path
from switchkd.files import replacing_folder
with replacing_folder(Path(sys.argv[1])) as partial:
    (partial / "new").write_text("new")
"""


def caused(*errors):
    """The last of these, each raised because of the one before."""
    try:
        try:
            raise errors[0]
        except Exception as error:
            raise errors[-1] from error
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "a"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ValueError("write failed: file write failed: Disk quota exceeded"),
        caused(OSError(errno.ENOSPC, "x"), RuntimeError("unexpected pos 64 vs 0")),
        caused(RuntimeError("(os error 27)"), ValueError("torn")),
    ],
    ids=str,
)
def test_failures_of_a_full_disk(error, tmp_path):
    assert why_full(error, tmp_path) in {os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
    assert why_full(error)


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "Permission denied"), ValueError("(os error 2)"), KeyError("a")]
)
def test_other_failures(error, tmp_path):
    assert why_full(error, tmp_path, tmp_path / "gone") is None


def test_a_library_that_says_nothing_of_the_disk(tmp_path):
    """It finds its own file torn; the disk tells why. Nothing is left over, and what was there before still is."""
    code = """
import sys
from pathlib import Path
from switchkd.files import replacing_folder
target = Path(sys.argv[1]) / "out"
target.mkdir()
(target / "old").write_text("old")
try:
    with replacing_folder(target) as partial:
        try:
            (partial / "file").write_bytes(bytes(3_000_000))
        except OSError:
            pass
        raise ValueError("Error parsing message")
except Exception as error:
    print(type(error).__name__, error)
print(sorted(path.name for path in target.parent.rglob("*")))
"""
    said, left = with_mounts([small_disk(tmp_path / "disk", "2m")], code, tmp_path / "disk").stdout.splitlines()
    assert said.startswith("SkdError") and "No space left on device" in said and left == "['old', 'out']"


@pytest.mark.parametrize("inside", ["", "deep/"])
def test_a_folder_of_a_lower_layer_is_replaced(tmp_path, inside):
    lower = tmp_path / "lower"
    (lower / inside / "export" / "sub").mkdir(parents=True)
    (lower / inside / "export" / "sub" / "old").write_text("old")
    mount, merged = layers(lower)
    code = (
        "import sys\nfrom pathlib import Path\n"
        + REPLACE
        + "print(sorted(p.name for p in Path(sys.argv[1]).parent.rglob('*')))"
    )
    printed = with_mounts([mount], code, merged / inside / "export").stdout
    assert eval(printed) == ["export", "new"]


def test_a_mount_point_is_told_before_the_work(tmp_path):
    """A file system of its own, a folder of the same one, a file; each for a folder that is replaced."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("disk", "bound", "with blank"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (other / "file").write_text("")
    mounts = [
        small_disk(tmp_path / "disk", "1m"),
        ["--bind", str(other), str(tmp_path / "bound")],
        ["--bind", str(other), str(tmp_path / "with blank")],
        ["--bind", str(other / "file"), str(tmp_path / "file")],
    ]
    code = """
import sys
from pathlib import Path
from switchkd.files import replacing_folder
for name in sys.argv[1:]:
    try:
        with replacing_folder(Path(name)):
            print("the work begins")
    except Exception as error:
        print(type(error).__name__, "is a mount point" in str(error))
"""
    names = [tmp_path / name for name in ("disk", "bound", "with blank", "file")]
    assert with_mounts(mounts, code, *names).stdout.splitlines() == ["SkdError True"] * 4
    require_replaceable(tmp_path / "bound")  # out of that mount table it is a folder like any other
    require_replaceable(tmp_path / "none")
    with pytest.raises(SkdError, match="is a mount point"):
        require_replaceable(type(tmp_path)("/"))


def test_what_can_not_be_put_in_place_leaves_the_old(tmp_path, monkeypatch):
    """The new folder's own rename fails: the old one has its name again."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    rename = type(target).rename

    def failing(path, place):
        if place == target and path.name.endswith("part"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, place)

    with monkeypatch.context() as patch, pytest.raises(SkdError, match="Input/output error"):
        patch.setattr("tempfile.mkdtemp", lambda **_: str((tmp_path / ".part").mkdir() or tmp_path / ".part"))
        patch.setattr(type(target), "rename", failing)
        with replacing_folder(target) as partial:
            (partial / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_that_flush_no_folder(tmp_path, monkeypatch, number):
    synced = []

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    flush_folder(tmp_path)
    assert synced


def test_a_flush_that_fails_is_an_error(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        flush_folder(tmp_path)


@pytest.mark.parametrize("made", ["folder", "empty", "file"])
def test_what_somebody_else_made_meanwhile_is_left(tmp_path, made):
    target = tmp_path / "out"
    with (
        pytest.raises(SkdError, match="was made by somebody else meanwhile"),
        replacing_folder(target, replace=False) as new,
    ):
        (new / "file").write_text("ours")
        if made == "file":
            target.write_text("theirs")
        else:
            target.mkdir()
            if made == "folder":
                (target / "file").write_text("theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert made == "empty" or (target if made == "file" else target / "file").read_text() == "theirs"


QUANTIZE = """
import sys
from pathlib import Path
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from switchkd.export.onnx import quantize as onnx_quantize
from switchkd.export.onnx.graph import save_graph, small_graph
from switchkd.files import replacing_folder
weights = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
model = small_graph(
    [helper.make_node("MatMul", ["x", "w"], ["logits"], name="head")],
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 512])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1024])],
    [numpy_helper.from_array(weights, "w")],
    "graph",
)
disk = Path(sys.argv[2])
(disk / "out").mkdir()
(disk / "out" / "old").touch()
(disk / "fill").write_bytes(bytes(int(sys.argv[3])))
try:
    with replacing_folder(disk / "out") as partial:
        save_graph(model, partial / "plain.onnx")
        getattr(onnx_quantize, sys.argv[1])(partial / "plain.onnx", partial / "small.onnx")
    print("done")
except Exception as error:
    print(type(error).__name__, str(error))
print(sorted(path.name for path in disk.rglob("*")))
"""


@pytest.mark.parametrize(
    ("function", "filled"),
    [("quantize_int8", 1_500_000), ("quantize_four_bits", 2_000_000), ("convert_half", 1_500_000)],
)
def test_quantizers_on_a_full_disk(tmp_path, function, filled):
    """They find their own torn files; what is told is the disk. What was there stays."""
    disk = tmp_path / "disk"
    mounts = [small_disk(disk, "4m")]
    said, left = with_mounts(mounts, QUANTIZE, function, disk, filled).stdout.splitlines()[-2:]
    assert said.startswith("SkdError") and "No space left on device" in said, said
    assert eval(left) == ["fill", "old", "out"]
