"""The example files of docs/extending.md, as a reader would copy them."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
MARKED = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
EXAMPLES = dict(MARKED.findall(PAGE))  # path → text


def write_files(folder: Path, files: dict[str, str]) -> Path:
    """The folder, with these files in it by their paths."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
