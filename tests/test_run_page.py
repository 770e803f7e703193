"""A run's one page: what it tells is in the run's files, and it is there after every command that adds something."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

from switchkd.run_page import PAGE, refresh_page, write_page


class Page(HTMLParser):
    """Text, links and pictures of a page; what isn't closed in order is an error."""

    _EMPTY = ("meta", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links, self.pictures, self.text, self._open = [], [], [], []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
        if tag not in self._EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def read(run: Path) -> Page:
    return Page((run / PAGE).read_text())


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with one of everything, and names that HTML could trip over."""
    run = tmp_path / "runs" / "a&b <i>"
    recipe = {
        "name": "own",
        "data": {"sets": {"finetune": {"file": "/data/talks.json"}}, "test": "/data/dev.json"},
        "stages": {"dft": {"data": "finetune"}},
    }
    stage = {
        "title": "student dft",
        "steps": 7,
        "seconds": 90.0,
        "data": {"total": 40, "usable": 38, "unusable": {"no_picture": 2}},
        "log": [{"loss": 3.5}, {"loss": 1.25}, {"train_runtime": 1}],
    }
    score = {"right": 3, "total": 4, "accuracy": 0.75, "interval": [0.3, 0.95]}
    variant = {
        "latency": {"first_token": {"p50": 0.0123}, "answer": {"p50": None}},
        "quality": {"accuracy": {"all": {"accuracy": 0.5}}},
    }
    for path, content in {
        "stages/student-dft-1/stage.json": stage,
        "stages/student-pt-2/checkpoints/x.json": {},
        "reports/accuracy.json": {"Switch-KD": {"all": score}, "agreement_with_teacher": {"Switch-KD": 0.5}},
        "reports/bench/bench.json": {"variants": {"student-gguf-q4": variant}},
        "reports/bench/report.html": {},
        "exports/odd name/manifest.json": {},
        "packages/x-board-1.tar": {},
    }.items():
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_text(json.dumps(content))
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    Image.new("RGB", (30, 20)).save(run / "reports" / "training.png")
    return run


def test_the_page_tells_what_the_files_hold(run):
    write_page(run)
    page = read(run)
    for words in (
        "run a&b <i>",
        "talks.json 40 38 2 no_picture",
        "dev.json, questions 4 4",
        "student dft 7 1.5 1.250",
        "student-pt-2, interrupted",
        "Switch-KD 75.0 30–95 4",
        "odd name – – – –",
        "student-gguf-q4 12.3 – 50.0",
        "x-board-1.tar",
    ):
        assert words in page.words, words
    assert "Nothing yet" not in page.words


def test_it_stands_alone_and_its_links_lead_somewhere(run):
    write_page(run)
    page = read(run)
    assert len(page.pictures) == 1 and page.pictures[0].startswith("data:image/png;base64,")
    html = (run / PAGE).read_text()
    assert not re.search(r"https?:|<script|<link", html) and 'name="viewport"' in html
    targets = [link for link in page.links if not link.startswith("#")]
    for link in targets:
        assert (run / "reports" / link.replace("%20", " ")).exists(), link
    assert {"bench/report.html", "../recipe.yaml", "../exports/odd%20name/"} <= set(targets)


def test_what_is_missing_or_torn_is_told_with_the_command_that_makes_it(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "reports").mkdir()
    (tmp_path / "recipe.yaml").write_text("name: [")
    (tmp_path / "reports" / "accuracy.json").write_text("{torn")
    write_page(tmp_path)
    words = read(tmp_path).words
    assert words.count("Nothing yet") == 6 and "skd export" in words and "--eval" in words


def test_it_is_made_anew_for_what_is_added_to_a_run_alone(run, tmp_path):
    refresh_page(tmp_path / "elsewhere" / "out")
    assert not list(tmp_path.rglob("index.html"))
    for added in ("exports/odd name", "packages/x-board-1.tar", "reports/bench/report.html"):
        refresh_page(run / added)
        (run / PAGE).unlink()
