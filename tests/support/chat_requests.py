"""Chat requests of every form, and docs/inputs.md's table of them."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

from support.llava_models import picture
from support.serving import PATIENCE, Served, about, data_url

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"
ASKED = "how many cars ?"
URL = data_url(1)
DATA = URL.partition(",")[2]
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
OTHER = {"type": "image_url", "image_url": {"url": data_url(2)}}
WORDS = {"type": "text", "text": ASKED}
LEFT, RIGHT = ({"type": "text", "text": f"{side} :"} for side in ("left", "right"))
PLAIN = [{"role": "user", "content": ASKED}]
REFUSAL = re.compile(r"\b4\d\d\b")  # a status, in what the table says


def seen(*parts):
    return [{"role": "user", "content": list(parts)}]


def sent(url):
    return about(url, ASKED)


def form(name, **options):
    stream = io.BytesIO()
    picture(1).save(stream, name, **options)
    return base64.b64encode(stream.getvalue()).decode()


def with_field(place, name, value):
    """A picture's request with a field of a "message", "part" or "picture" more."""
    messages = copy.deepcopy(sent(URL))
    message = messages[0]
    part = message["content"][0]
    {"message": message, "part": part, "picture": part["image_url"]}[place][name] = value
    return {"messages": messages}


def said(**fields):
    return {"messages": sent(URL), **fields}


def after(message, *, question=PLAIN):
    return {"messages": [*question, message, *question]}


def post(served: Served, request) -> tuple[int, dict | str]:
    """(status, what was answered)"""
    body = request if isinstance(request, bytes) else json.dumps({"model": served.app.model, **request}).encode()
    call = urllib.request.Request(f"{served.url}/chat/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=PATIENCE) as response:
            return response.status, json.load(response)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def page_rows() -> dict[str, str]:
    """The table of docs/inputs.md: requests → what is said of them."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Requests\n")[2].partition("\n## ")[0]
    cells = [line.removeprefix("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    return {request: answer for request, answer, *_ in cells}
