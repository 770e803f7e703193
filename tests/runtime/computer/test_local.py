"""This computer's profile: what the system tells, and what of it is read anew."""

import json
import re

import pytest

from switchkd.computer import usable_processors
from switchkd.errors import SkdError
from switchkd.hardware.fit import available_bytes
from switchkd.runtime.computer import local
from switchkd.runtime.computer import profile as probe

MEASURED = {
    name: {"value": 10.0, "source": "made up"}
    for name in ("memory_read_gbps", "matrix_f32_gmacs", "matrix_int8_gmacs", "vector_int8_gmacs")
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = probe.cache_file()
    assert path.is_relative_to(tmp_path)
    path.parent.mkdir(parents=True)
    return path


def test_what_the_system_tells_is_a_profile():
    known, unknown = local.facts()
    assert sum(known["cores"].values()) == usable_processors() >= 1
    assert known["ram_gb"] > known["system_gb"] > 0
    assert not set(known) & set(unknown)
    assert re.fullmatch(r"[0-9a-f]{12}", local.fingerprint()) and local.fingerprint() == local.fingerprint()


def test_memory_is_what_is_taken_now(cache):
    """Not what was taken when the computer was measured."""
    profile = probe.describe({**MEASURED, "unknown": {}}).to_json()
    taken = profile["system_gb"]["value"]
    profile["system_gb"]["value"] = profile["ram_gb"]["value"] - 0.001  # it was full then
    cache.write_text(json.dumps(profile))
    found = probe.find_profile("local")
    assert found.value("memory_read_gbps") == 10.0 and found.value("system_gb") == pytest.approx(taken, abs=2)
    assert available_bytes(found) > 1e8


def test_memory_that_is_all_taken_or_unknown(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 0 kB\n")
    known, unknown = local.memory_facts(tmp_path)
    assert known["ram_gb"] > known["system_gb"] > 8.1 and not unknown
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\n")
    known, unknown = local.memory_facts(tmp_path)
    assert known == {"ram_gb": 8.192} and "free" in unknown["system_gb"]
    (tmp_path / "proc/meminfo").unlink()
    assert set(local.memory_facts(tmp_path)[1]) == {"ram_gb", "system_gb"}


def test_what_was_kept_may_be_torn(cache):
    assert probe.kept_local() is None
    for torn in ("{", "[]", "{}"):
        cache.write_text(torn)
        with pytest.raises(SkdError, match=r"local-.*\.json"):
            probe.find_profile("local")
