"""Every shipped profile keeps the rules, and every broken rule is told in one line."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchkd import hardware
from switchkd.hardware.cores import CORES
from switchkd.hardware.profile import (
    CONFIDENCES,
    FIELDS,
    ProfileError,
    load_profile,
    profile_names,
    read_profile,
    shipped_profile,
)

SIXTEEN = {
    "jetson-orin-nano": (8.0, 68.0),  # GB and GB/s of the source table
    "jetson-orin-nx": (16.0, 102.0),
    "jetson-agx-orin": (64.0, 200.0),
    "jetson-t5000": (128.0, 273.0),
    "drive-orin": (None, None),
    "drive-thor-x": (64.0, None),
    "sa8155p": (None, 33.5),
    "sa8295p": (None, 67.0),
    "snapdragon-8-gen-3": (None, 76.8),
    "journey-5": (None, None),
    "journey-6": (None, None),
    "tda4vm": (4.0, 17.1),
    "imx8m-plus": (None, 16.0),
    "rcar-v4h": (None, None),
    "rk3588": (None, 34.0),
    "raspberry-pi-5": (None, 17.1),
}


def pi() -> dict:
    return shipped_profile("raspberry-pi-5").to_json()


def test_the_sixteen_targets_and_this_computer_are_there():
    assert set(profile_names()) == {*SIXTEEN, "local"} and profile_names()[-1] == "local"


@pytest.mark.parametrize("name", SIXTEEN)
def test_figures_are_those_of_the_source_table(name):
    profile = shipped_profile(name)
    assert profile.name == name
    assert (profile.value("ram_gb"), profile.value("memory_gbps")) == SIXTEEN[name]


@pytest.mark.parametrize("name", [*SIXTEEN, "local"])
def test_every_value_has_a_source_and_every_gap_a_reason(name):
    profile = shipped_profile(name)
    assert set(profile.figures) | set(profile.unknown) == set(FIELDS)
    assert not set(profile.figures) & set(profile.unknown)
    for figure in profile.figures.values():
        assert len(figure.source) > 3 and figure.confidence in CONFIDENCES
    assert all(len(reason) > 10 for reason in profile.unknown.values())
    assert read_profile(profile.to_json(), name) == profile
    assert not re.search(r"/work|facts/", json.dumps(profile.to_json()))


@pytest.mark.parametrize("name", SIXTEEN)
def test_core_types_are_known_where_clocks_are(name):
    for kind in shipped_profile(name).value("clock_ghz") or {}:
        assert kind in CORES


@pytest.mark.parametrize("name", SIXTEEN)
def test_computed_bandwidth_follows_from_its_own_source(name):
    figure = shipped_profile(name).figures.get("memory_gbps")
    found = re.search(r": (\d+) bytes · ([\d.]+)$", figure.source) if figure else None
    assert (found is not None) == (figure is not None and figure.confidence == "computed")
    if found:
        assert figure.value == pytest.approx(int(found[1]) * float(found[2]), rel=0.01)


def broken(change) -> str:
    value = pi()
    change(value)
    with pytest.raises(ProfileError) as caught:
        read_profile(value, "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda value: value.pop("cores"), "'cores' is missing"),
        (lambda value: value.update(speed=value["cores"]), "no field 'speed'"),
        (lambda value: value["unknown"].update(cores="why"), "both"),
        (lambda value: value["unknown"].update(ram_gb=""), "reason"),
        (lambda value: value.update(unknown=3), "reason"),
        (lambda value: value["cores"].pop("source"), "[cores]"),
        (lambda value: value["cores"].update(source=" "), "no source"),
        (lambda value: value["cores"].update(confidence="sure"), "'sure'"),
        (lambda value: value["cores"].update(confidence=["measured"]), "['measured']"),
        (lambda value: value["cores"].update(more=1), "nothing else"),
        (lambda value: value["cores"].update(value={"Cortex-A76": 4.5}), "4.5"),
        (lambda value: value["cores"].update(value={}), "{}"),
        (lambda value: value["cores"].update(value={"Cortex-A76": True}), "True"),
        (lambda value: value["memory_gbps"].update(value=-1), "-1"),
        (lambda value: value["memory_gbps"].update(value=float("nan")), "nan"),
        (lambda value: value["memory_gbps"].update(value="fast"), "'fast'"),
        (lambda value: value["memory_gbps"].update(value=1e9), "range"),
        (lambda value: value["instructions"].update(value=[]), "[]"),
        (lambda value: value["clock_ghz"].update(value={"Cortex-X9": 2.0}), "clock_ghz"),
        (lambda value: value.update(title=""), "title"),
        (lambda value: value.pop("name"), "name"),
        (lambda value: value.update(cores=4), "[cores]"),
    ],
)
def test_broken_rules_are_told(change, word):
    assert word in broken(change)


def test_a_system_that_keeps_all_memory_is_refused():
    value = shipped_profile("tda4vm").to_json()
    value["system_gb"]["value"] = value["ram_gb"]["value"]
    with pytest.raises(ProfileError, match="can't keep"):
        read_profile(value, "mine")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from([*FIELDS, "unknown", "name", "title", "note"]), value=JSON)
def test_any_value_is_read_or_refused(field, value):
    changed = copy.deepcopy(pi())
    changed["unknown"].pop(field, None)
    changed[field] = value
    try:
        read_profile(changed, "mine")
    except ProfileError as error:
        assert "\n" not in str(error).replace(repr(value), "")


def test_a_profile_of_ones_own(tmp_path):
    text = (Path(hardware.__file__).parent / "profiles" / "tda4vm.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('"tda4vm"', '"mine"').replace("value = 4.0", "value = 8.0"))
    assert load_profile(str(path)).value("ram_gb") == 8.0
    path.write_text("name =")
    with pytest.raises(ProfileError, match="no TOML"):
        load_profile(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match="can't be read"):
        load_profile(str(path))
    with pytest.raises(ProfileError, match="can't be read"):
        load_profile(str(tmp_path / "no.toml"))
    with pytest.raises(ProfileError, match=r"there are .*raspberry-pi-5"):
        load_profile("../profile")


def test_profiles_are_packed():
    """tests/test_package.py compares the wheel with the folders; this holds the pattern that packs them."""
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["package-data"]["switchkd.hardware"] == ["profiles/*.toml"]
    assert importlib.metadata.version("switchkd")
