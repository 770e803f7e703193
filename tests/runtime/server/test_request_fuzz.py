"""Chat requests of any shape: each is answered or refused in one line, none ends the server, no field is dropped silently."""

import copy
import json
import urllib.error
import urllib.request

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from support.serving import PATIENCE, about, data_url, running

pytestmark = pytest.mark.slow

TEXT = some.text(max_size=12) | some.sampled_from(
    ["<image>", "\ud800", "\ufdd0", "e" + "\u0301" * 40, "", "user", "assistant", "text", "image_url", "a" * 5000]
)
SCALAR = some.none() | some.booleans() | some.integers() | some.floats() | TEXT
VALUE = some.recursive(
    SCALAR, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
KNOWN = (
    "role content type text image_url url detail name tool_calls stop stream n seed stream_options max_tokens temperature "
    "response_format messages model logit_bias top_p choices logprobs top_logprobs min_p"
)
NAMES = some.sampled_from(KNOWN.split())
ADDRESS = some.sampled_from(
    [data_url(1), data_url(2, "JPEG"), "https://example.org/a.png", "data:,", ""]
) | some.builds(lambda kind, data: f"data:{kind};base64,{data}", TEXT, TEXT)
PART = (
    some.builds(lambda text: {"type": "text", "text": text}, TEXT)
    | some.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, ADDRESS)
    | VALUE
)
MESSAGE = (
    some.builds(
        lambda role, content: {"role": role, "content": content},
        some.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        TEXT | some.lists(PART, max_size=3) | some.none(),
    )
    | VALUE
)


def places(value, path=()):
    """Every object and list in a request."""
    if isinstance(value, dict | list):
        yield path
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


@pytest.fixture(scope="module")
def served(shared_engine):
    with running(shared_engine, max_tokens=2, request_seconds=30) as served:
        yield served


@pytest.fixture(scope="module")
def strict(shared_engine):
    with running(shared_engine, rules={"strict": True}, max_tokens=2, request_seconds=30) as served:
        yield served


def answer(served, body: bytes) -> tuple[int, dict]:
    call = urllib.request.Request(f"{served.url}/chat/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=PATIENCE) as response:
            whole = response.read()
            status = response.status
    except urllib.error.HTTPError as error:
        whole, status = error.read(), error.code
    assert status in (200, 400, 404, 413, 422), (status, whole)
    if status == 200:
        return status, {} if whole.startswith(b"data: ") else json.loads(whole)
    error = json.loads(whole)["error"]
    assert error["message"].isprintable() and len(error["message"]) < 500, error
    return status, error


def example(served) -> dict:
    messages = [{"role": "system", "content": "be short"}, *about(data_url(1))]
    return {"model": served.app.model, "messages": messages, "max_tokens": 2, "stream_options": None, "metadata": {}}


RULES = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=250, **RULES)
@given(messages=some.lists(MESSAGE, max_size=3), fields=some.dictionaries(NAMES, VALUE, max_size=3))
def test_made_up_requests(served, messages, fields):
    request = {"model": served.app.model, "messages": messages, "max_tokens": 2, **fields}
    answer(served, json.dumps(request).encode())


@settings(max_examples=400, **RULES)
@given(data=some.data(), value=VALUE, name=NAMES)
def test_one_thing_changed(served, data, value, name):
    """A good request with something put, replaced or removed anywhere."""
    request = example(served)
    place = at(request, data.draw(some.sampled_from(list(places(request)))))
    if isinstance(place, dict):
        change = data.draw(some.sampled_from(["put", "replace", "remove"]))
        key = name if change == "put" or not place else data.draw(some.sampled_from(list(place)))
        if change == "remove":
            place.pop(key, None)
        else:
            place[key] = value
    else:
        place.insert(data.draw(some.integers(0, len(place))), value)
    answer(served, json.dumps(request).encode())


@settings(max_examples=150, **RULES)
@given(
    data=some.data(),
    value=VALUE.filter(lambda value: value not in (None, [], {}, "")),
    name=some.text("xyz", min_size=8),
)
def test_no_field_is_dropped_silently(strict, data, value, name):
    """One that nobody knows and that says something is named by a strict server, wherever it stands, but in what is somebody's
    own (metadata)."""
    request = example(strict)
    paths = [path for path in places(request) if isinstance(at(request, path), dict) and "metadata" not in path]
    place = data.draw(some.sampled_from(paths))
    changed = copy.deepcopy(request)
    at(changed, place)[name] = value
    assert answer(strict, json.dumps(request).encode())[0] == 200
    status, error = answer(strict, json.dumps(changed).encode())
    assert status == 400 and error["param"].endswith(name)


@settings(max_examples=150, **RULES)
@given(data=some.data(), junk=some.binary(max_size=6))
def test_torn_bodies(served, data, junk):
    body = json.dumps(example(served)).encode()
    start = data.draw(some.integers(0, len(body)))
    answer(served, body[:start] + junk + body[data.draw(some.integers(start, len(body))) :])
