"""A small student that is served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.llava_models import make_checkpoint
from support.serving import Gate, Served, running

from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.opening import open_engine


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    """Answers differently to different pictures."""
    return make_checkpoint(tmp_path_factory.mktemp("served") / "student", seed=5, tied=False)


@pytest.fixture(scope="session")
def shared_engine(student) -> Iterator[Engine]:
    with open_engine(student, threads=1) as engine:
        yield engine


@pytest.fixture(scope="session")
def other_engine(shelf) -> Iterator[Engine]:
    """Another student, with other answers."""
    with open_engine(shelf.checkpoint(seed=6, tied=False), threads=1) as engine:
        yield engine


@pytest.fixture
def engine(shared_engine) -> Iterator[Engine]:
    """The student; a test may put a gate in front of its language model."""
    language, ends = shared_engine.language, shared_engine.end_tokens
    yield shared_engine
    shared_engine.language, shared_engine.end_tokens = language, ends


@pytest.fixture
def gate(engine) -> Gate:
    engine.language, engine.end_tokens = Gate(engine.language), frozenset()
    return engine.language


@pytest.fixture
def served(engine) -> Iterator[Served]:
    with running(engine) as served:
        yield served


@pytest.fixture(scope="module")
def shared_server(shared_engine) -> Iterator[Served]:
    """One for all tests of a file that leave it as it is."""
    with running(shared_engine) as served:
        yield served
