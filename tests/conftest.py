"""Small real models and data that many tests share."""

import os
import sys

# Two threads on a busy machine with two cores make a step ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
from support.llava_models import make_model
from support.shelf import Shelf
from support.tokenizers import small_prompt

from switchkd.prompt import ChatPrompt

HEAVY = {"torch", "transformers", "llama_cpp"}


class HeavyImports:
    """Skips whatever test, fixture or test file reaches for one of the heavy packages."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in HEAVY:
            pytest.skip(f"needs {name}", allow_module_level=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--light", action="store_true", help=f"skip what needs {', '.join(sorted(HEAVY))}")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--light"):
        sys.meta_path.insert(0, HeavyImports())


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Shelf:
    """Small models and exports that many tests share."""
    own = tmp_path_factory.getbasetemp()
    # Workers of xdist have their folders beside each other.
    return Shelf((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shelf")


@pytest.fixture(scope="session")
def prompt() -> ChatPrompt:
    """The project's ChatML template on a small tokenizer."""
    return small_prompt()


@pytest.fixture(scope="session")
def road_scenes(tmp_path_factory) -> Path:
    """A small built-in task: pictures, captions, conversations, questions."""
    from switchkd.data.roadscenes import write_roadscenes

    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_roadscenes(folder, size=56, train=24, val=3, test=4, text=16, processes=1)
    return folder


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory) -> Path:
    """Qwen2.5-0.5B's and SigLIP so400m's shapes, shrunk; tied embeddings, 1,187 rows."""
    folder = tmp_path_factory.mktemp("models") / "student"
    return make_model(folder, "siglip-so400m-patch14-384", "qwen2.5-0.5b", feature_layer=-2)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory) -> Path:
    """The same with Qwen2.5-7B's shape: another width, untied, 1,188 rows."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    return make_model(folder, "siglip-so400m-patch14-384", "qwen2.5-7b", feature_layer=-2, seed=1)


@pytest.fixture
def mixed_data(tmp_path, road_scenes) -> tuple[Path, Path]:
    """(file, image folder) of records with pictures, of text alone and of several turns."""
    from support.training import write_mixed

    return write_mixed(tmp_path, road_scenes)
