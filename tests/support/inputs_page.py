"""docs/inputs.md as tests read it: the tables' rows, and what a data file comes to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.llava_files import IMAGE_TOKENS
from support.tokenizers import small_prompt
from switchkd.data.index import Source, build_index
from switchkd.data.reasons import Reason
from switchkd.data.usability import count_usable
from switchkd.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"
LIMIT = 300  # tokens


def rows(first: str) -> dict[str, str]:
    """Row → outcome of the page's table with this head."""
    table = PAGE.read_text(encoding="utf-8").split(f"| {first} | |\n|---|---|\n")[1].split("\n\n")[0]
    return {row: outcome.strip("`") for row, outcome in re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE)}


def asked(kind: str) -> list[Any]:
    """A test's parameters (row, outcome), one for each row of a table."""
    return [pytest.param(row, outcome, id=row) for row, outcome in rows(kind).items()]


def outcomes(file: Path, images: Path, *, follow_links: bool = False) -> set[str]:
    """What the records of a file come to, "usable" or a reason; "refused" where the file as a whole is.

    Nothing is lost on the way: every record is counted, and every reason has its words.
    """
    settings: dict[str, Any] = {"image_tokens": IMAGE_TOKENS, "max_length": LIMIT, "follow_links": follow_links}
    source = Source(file, images, small_prompt(), **settings)
    try:
        index = build_index(source)
    except DataError as error:
        assert "\n" not in str(error) and str(file) in str(error)
        return {"refused"}
    report = count_usable(source, index)
    assert report.total == len(index) == report.usable + sum(report.bad.values()) > 0
    assert set(report.why) == set(report.bad) and all(report.why.values())
    assert not any("\n" in why for why in report.why.values())
    return {Reason(reason).name.lower() for reason in index.reason}
