"""Packages and a device that has one installed."""

from pathlib import Path

import pytest
from support import packages

from switchkd.runtime.packages.install import Installation


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """(signer, public key); the files lie in its folder as key and key.pub."""
    folder = tmp_path_factory.mktemp("keys")
    return *packages.key_pair(folder), folder / "key.pub"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, keys):
    """Release → package, each with other contents."""
    folder = tmp_path_factory.mktemp("shipped")
    return {
        release: packages.write(folder / f"{release}.tar", keys[0], packages.files(release), release=release)
        for release in (1, 2, 3, 4)
    }


@pytest.fixture
def device(tmp_path, shipped, keys):
    """A folder with release 1."""
    installation = Installation(tmp_path / "device")
    installation.install(shipped[1], [keys[1]])
    return installation


@pytest.fixture(scope="module")
def package(tmp_path_factory, keys) -> Path:
    return packages.write(tmp_path_factory.mktemp("package") / "tiny.tar", keys[0], packages.files())
