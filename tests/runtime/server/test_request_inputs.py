"""The table of requests in docs/inputs.md: every row, with several inputs of its kind."""

import base64
import copy
import io
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.llava_models import picture
from support.serving import PATIENCE, Served, about, data_url, running

PAGE = Path(__file__).parents[3] / "docs" / "inputs.md"
ASKED = "how many cars ?"
URL = data_url(1)
DATA = URL.partition(",")[2]
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
WORDS = {"type": "text", "text": ASKED}
PLAIN = [{"role": "user", "content": ASKED}]


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


# Row → pairs of requests that get the same answer.
TAKEN = {
    "content as text, or as a list of `text` and `image_url` parts": [
        ({"messages": seen(WORDS)}, {"messages": PLAIN}),
        (
            {"messages": seen({"type": "text", "text": "how many "}, {"type": "text", "text": "cars ?"})},
            {"messages": PLAIN},
        ),
        ({"messages": seen(IMAGE, {"type": "text", "text": "how many"}, {"type": "text", "text": " cars ?"})}, said()),
    ],
    "content null or empty; an `assistant` message without one": [
        (after({"role": "assistant", "content": None}), after({"role": "assistant", "content": ""})),
        (after({"role": "assistant"}), after({"role": "assistant", "content": ""})),
        (after({"role": "assistant", "content": []}), after({"role": "assistant", "content": ""})),
        (
            {"messages": [{"role": "system", "content": None}, *PLAIN]},
            {"messages": [{"role": "system", "content": ""}, *PLAIN]},
        ),
    ],
    "roles `system`, `developer`, `user`, `assistant`": [
        (
            {"messages": [{"role": "developer", "content": "be short"}, *PLAIN]},
            {"messages": [{"role": "system", "content": "be short"}, *PLAIN]},
        ),
    ],
    "picture as a `data:` URL in base64, of any media type or none": [
        ({"messages": sent(f"data:{kind};base64,{DATA}")}, said())
        for kind in (
            "",
            "image/jpeg",
            "image/jpg",
            "application/octet-stream",
            "text/plain;charset=utf-8",
            "IMAGE/*",
            "nonsense",
        )
    ]
    + [({"messages": sent(f"DATA:image/png;BASE64,{DATA}")}, said())],
    "base64 with line breaks or blanks, in the URL-safe alphabet, unpadded, with `%` escapes": [
        ({"messages": sent(f"data:image/png;base64,{spelled}")}, said())
        for spelled in (
            base64.encodebytes(base64.b64decode(DATA)).decode(),
            "\r\n".join(DATA[place : place + 64] for place in range(0, len(DATA), 64)),
            f" {DATA}\n",
            DATA.replace("+", "-").replace("/", "_"),
            DATA.rstrip("="),
            DATA.replace("+", "-").replace("/", "_").rstrip("="),
            DATA.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
        )
    ],
    "`image_url` as the URL itself instead of an object": [
        ({"messages": seen({"type": "image_url", "image_url": URL}, WORDS)}, said()),
    ],
    "JPEG, PNG, WebP, GIF": [
        ({"messages": sent(f"data:;base64,{form('WEBP', lossless=True, exact=True)}")}, said()),
        ({"messages": sent(f"data:;base64,{form('PNG', compress_level=0)}")}, said()),
        *(({"messages": sent(f"data:;base64,{form(name)}")}, None) for name in ("JPEG", "GIF")),
    ],
    "words before the picture in one message": [
        ({"messages": seen(WORDS, IMAGE)}, said()),
        ({"messages": seen({"type": "text", "text": f"{ASKED}\n"}, IMAGE)}, said()),
        ({"messages": seen({"type": "text", "text": "how many"}, {"type": "text", "text": " cars ?"}, IMAGE)}, said()),
        (
            {"messages": [*PLAIN, {"role": "assistant", "content": "two"}, *seen(WORDS, IMAGE)]},
            {"messages": [*PLAIN, {"role": "assistant", "content": "two"}, *sent(URL)]},
        ),
    ],
    "words around the picture": [
        (
            {"messages": seen({"type": "text", "text": before}, IMAGE, {"type": "text", "text": behind})},
            {"messages": about(URL, "look\nhow many ?")},
        )
        for before, behind in (("look", "how many ?"), ("look\n", "\nhow many ?"), ("look", "\nhow many ?"))
    ],
    "`image_url.detail`, `format`, `media_type`; `cache_control`, `id`, `uuid` of a part": [
        (with_field(place, name, value), said())
        for place, name, value in (
            ("picture", "detail", "high"),
            ("picture", "format", "image/png"),
            ("picture", "media_type", "image/png"),
            ("part", "cache_control", {"type": "ephemeral"}),
            ("part", "id", "1"),
            ("part", "uuid", "1"),
        )
    ],
    "`name`, `id`, `annotations`, `reasoning`, `reasoning_content`, `cache_control` of a message; `prefix`, `partial` false": [
        (with_field("message", name, value), said())
        for name, value in (
            ("name", "Eve"),
            ("id", "msg_1"),
            ("annotations", [{"type": "url_citation"}]),
            ("reasoning", "I see two."),
            ("reasoning_content", "I see two."),
            ("cache_control", {"type": "ephemeral"}),
            ("prefix", False),
            ("partial", False),
        )
    ],
    "`seed`, `user`, `metadata`, `store`, `service_tier`, `parallel_tool_calls`, `safety_identifier`": [
        (said(**{name: value}), said())
        for name, value in (
            ("seed", 3),
            ("user", "a"),
            ("metadata", {"a": "b"}),
            ("store", True),
            ("service_tier", "flex"),
            ("parallel_tool_calls", True),
            ("safety_identifier", "a"),
        )
    ],
    "`prompt_cache_key`, `prompt_cache_retention`, `cache_prompt`, `prediction`, `reasoning_effort`, `verbosity`, `priority`, "
    "`request_id`, `keep_alive`": [
        (said(**{name: value}), said())
        for name, value in (
            ("prompt_cache_key", "a"),
            ("prompt_cache_retention", "24h"),
            ("cache_prompt", True),
            ("prediction", {"type": "content", "content": "two"}),
            ("reasoning_effort", "low"),
            ("verbosity", "low"),
            ("priority", 1),
            ("request_id", "a"),
            ("keep_alive", "5m"),
        )
    ],
    "what asks for a greedy answer: `temperature` 0, `top_p` 1, `top_k` 1, 0 or −1, `min_p` 0, penalties of 0 or 1, `n`, `best_of` "
    "1, `min_tokens` 0": [
        (said(**{name: value}), said())
        for name, value in (
            ("temperature", 0),
            ("temperature", 0.0),
            ("top_p", 1.0),
            ("top_k", 1),
            ("top_k", 0),
            ("top_k", -1),
            ("min_p", 0),
            ("n", 1),
            ("best_of", 1),
            ("frequency_penalty", 0),
            ("presence_penalty", 0),
            ("repetition_penalty", 1.0),
            ("repeat_penalty", 1),
            ("length_penalty", 1),
            ("min_tokens", 0),
        )
    ],
    "`tools`, `functions` empty, `tool_choice` and `function_call` none or auto, `response_format` and `modalities` of text, "
    "`logprobs` false": [
        (said(**{name: value}), said())
        for name, value in (
            ("tools", []),
            ("functions", []),
            ("tool_choice", "none"),
            ("tool_choice", "auto"),
            ("function_call", "none"),
            ("response_format", {"type": "text"}),
            ("modalities", ["text"]),
            ("logprobs", False),
            ("top_logprobs", 0),
            ("logit_bias", {}),
        )
    ],
    "`echo`, `ignore_eos`, `use_beam_search`, `continue_final_message`, `include_stop_str_in_output` false, `skip_special_tokens`, "
    "`add_generation_prompt` true": [
        (said(**{name: value}), said())
        for name, value in (
            ("echo", False),
            ("ignore_eos", False),
            ("use_beam_search", False),
            ("continue_final_message", False),
            ("include_stop_str_in_output", False),
            ("skip_special_tokens", True),
            ("add_generation_prompt", True),
        )
    ],
    'any field that isn\'t known and says nothing: null, `[]`, `{}`, `""`': [
        *((said(mirostat=value), said()) for value in (None, [], {}, "")),
        *(
            (with_field(place, "new", value), said())
            for place in ("message", "part", "picture")
            for value in (None, {})
        ),
    ],
    "special tokens and `<image>` in a text": [
        ({"messages": [{"role": "user", "content": text}]}, None)
        for text in ("<image>", "<|im_end|>\n<|im_start|>assistant\n", "<|image_pad|> <image>")
    ],
}

# Row → (request, status, param).
REFUSED = {
    "another message without content, or content of another kind": [
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "system"}, *PLAIN]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 1}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, 400, "messages[0].content"),
    ],
    "other roles, such as `tool`": [
        ({"messages": [{"role": role, "content": "a"}]}, 400, "messages[0].role")
        for role in ("tool", "function", "User", None, 1)
    ],
    "no message, messages that are no list, a message that is no object": [
        ({"messages": value}, 400, "messages") for value in ([], None, "hello", {"role": "user"})
    ]
    + [({}, 400, "messages"), ({"messages": ["hello"]}, 400, "messages[0]")],
    "parts of another type, such as `input_audio`, `video_url`, `file`": [
        ({"messages": seen({"type": kind, kind: {"url": URL}})}, 400, "messages[0].content[0]")
        for kind in ("input_audio", "video_url", "file", "image", "Text")
    ]
    + [({"messages": seen("hello")}, 400, "messages[0].content[0]")],
    "`data:` without base64, text that isn't base64, addresses of any kind": [
        ({"messages": sent(url)}, 400, "messages[0].content[0].image_url")
        for url in (
            "data:image/png,abc",
            "data:image/png;base64",
            "data:image/png;base64,????",
            "data:image/png;base64,QUJDR",
            "data:image/png;base64,QÄ==",
            "data:image/png;base64,Q=JD",
            "https://example.org/a.png",
            "file:///etc/passwd",
            "/etc/passwd",
            DATA,
            "",
        )
    ],
    "other formats, torn pictures, bytes that are no picture": [
        ({"messages": sent(f"data:image/png;base64,{data}")}, 422, "messages[0].content[0].image_url")
        for data in (form("BMP"), form("TIFF"), DATA[: len(DATA) // 8 * 4], "QUJDRA==", "QUJDRA", "")
    ],
    "picture in a message that isn't the user's; two pictures in a conversation": [
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, 400, "messages[0].content[0]"),
        ({"messages": [{"role": "system", "content": [IMAGE]}, *PLAIN]}, 400, "messages[0].content[0]"),
        ({"messages": seen(IMAGE, IMAGE)}, 400, "messages[0].content[1].image_url"),
        ({"messages": seen(WORDS, IMAGE, IMAGE)}, 400, "messages[0].content[2].image_url"),
        (after({"role": "assistant", "content": "a"}, question=sent(URL)), 400, "messages[2].content[0].image_url"),
    ],
    "`tool_calls`, `function_call`, `audio`, `refusal` and other fields of a message that say something": [
        (with_field("message", name, value), 400, f"messages[0].{name}")
        for name, value in (
            ("tool_calls", [{}]),
            ("function_call", {"name": "f"}),
            ("audio", {"id": "a"}),
            ("refusal", "No."),
            ("prefix", True),
            ("tool_call_id", "a"),
        )
    ],
    "the same with other values": [
        (said(**{name: value}), 400, name)
        for name, value in (
            ("temperature", 0.7),
            ("temperature", True),
            ("top_p", 0.9),
            ("top_k", 40),
            ("min_p", 0.1),
            ("n", 2),
            ("best_of", 2),
            ("frequency_penalty", 1),
            ("repetition_penalty", 1.1),
            ("min_tokens", 5),
            ("tools", [{"type": "function", "function": {"name": "f"}}]),
            ("functions", [{"name": "f"}]),
            ("tool_choice", "required"),
            ("function_call", {"name": "f"}),
            ("response_format", {"type": "json_object"}),
            ("modalities", ["text", "audio"]),
            ("logprobs", True),
            ("echo", True),
            ("ignore_eos", True),
        )
    ],
    "`max_tokens`, `max_completion_tokens`": [
        (said(**{name: value}), 400, name)
        for name in ("max_tokens", "max_completion_tokens")
        for value in (0, -1, 1.5, True, "9")
    ],
    "`stop`": [(said(stop=value), 400, "stop") for value in (["a"] * 5, [""], 1, False, {"a": 1}, ["a", 1])],
    "`stream`, `stream_options.include_usage`, `include_obfuscation`, `continuous_usage_stats` false": [
        (said(stream="yes"), 400, "stream"),
        (said(stream=1), 400, "stream"),
        (said(stream_options={"include_usage": True}), 400, "stream_options"),
        (said(stream=True, stream_options={"include_usage": 1}), 400, "stream_options"),
        (said(stream=True, stream_options={"other": 1}), 400, "stream_options.other"),
        (
            said(stream=True, stream_options={"continuous_usage_stats": True}),
            400,
            "stream_options.continuous_usage_stats",
        ),
    ],
    "any field that isn't known and says something": [
        (said(mirostat=2), 400, "mirostat"),
        (said(chat_template="{{ messages }}"), 400, "chat_template"),
        (said(new=False), 400, "new"),
        (with_field("message", "new", 1), 400, "messages[0].new"),
        (with_field("part", "new", "a"), 400, "messages[0].content[0].new"),
        (with_field("picture", "new", 0), 400, "messages[0].content[0].image_url.new"),
    ],
    "text that isn't Unicode, Unicode's noncharacters U+FDD0 to U+FDD2, more than 30 combining characters in a row": [
        ({"messages": [{"role": "user", "content": text}]}, 400, "messages")
        for text in ("\ud800", "a\udc00b", "\ufdd0", "\ufdd1", "\ufdd2", "e" + "\u0301" * 31)
    ],
    "another model's name": [
        (said(model="other"), 404, "model"),
        (said(model="\ud800"), 404, "model"),
        (said(model=None), 400, "model"),
        (said(model=3), 400, "model"),
    ],
    "a body that is no JSON object": [
        (body, 400, None) for body in (b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b"[" * 90_000)
    ],
}


def post(served: Served, request) -> tuple[int, dict | str]:
    """(status, what was answered)"""
    body = request if isinstance(request, bytes) else json.dumps({"model": served.app.model, **request}).encode()
    call = urllib.request.Request(f"{served.url}/chat/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=PATIENCE) as response:
            return response.status, json.load(response)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


@pytest.fixture(scope="module")
def served(shared_engine):
    with running(shared_engine) as served:
        yield served


def rows() -> list[str]:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Requests\n")[2].partition("\n## ")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")][1:]


def test_the_page_and_these_tests_have_the_same_rows():
    assert set(rows()) == TAKEN.keys() | REFUSED.keys()


@pytest.mark.parametrize("row", TAKEN)
def test_taken(served, row):
    for request, plainest in TAKEN[row]:
        status, answer = post(served, request)
        assert status == 200 and answer, (request, answer)
        if plainest is not None:
            assert (status, answer) == post(served, plainest), request


@pytest.mark.parametrize("row", REFUSED)
def test_refused(served, row):
    for request, expected, param in REFUSED[row]:
        status, error = post(served, request)
        assert status == expected and error["param"] == param, (request, error)
        assert "\n" not in error["message"] and len(error["message"]) < 300
    assert post(served, said())[0] == 200


def test_smaller_limits_and_streams_are_taken(served):
    """What the rows on lengths, stop texts and streams say of what is taken."""
    whole = post(served, said())[1]
    assert whole.startswith(post(served, said(max_tokens=9, max_completion_tokens=2))[1])
    assert post(served, said(stop=[whole[2:4], "never"]))[1] == whole[: whole.index(whole[2:4])]
    options = {"include_usage": True, "include_obfuscation": True, "continuous_usage_stats": False}
    chunks = list(served.ask(about(URL, ASKED), stream=True, stream_options=options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole


def test_the_order_makes_a_difference_to_the_model(shared_engine):
    """So the rows on words before a picture say something; and `sent` leaves the picture where it is."""
    with running(shared_engine, pictures_first=False) as served:
        first, last = (post(served, {"messages": seen(*parts)}) for parts in ((IMAGE, WORDS), (WORDS, IMAGE)))
        assert first[0] == last[0] == 200 and first != last


def test_streams_tell_proxies_to_pass_pieces_on(served):
    body = json.dumps({"model": served.app.model, **said(stream=True)}).encode()
    call = urllib.request.Request(f"{served.url}/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=PATIENCE) as response:
        assert response.headers["x-accel-buffering"] == "no" and response.headers["cache-control"] == "no-store"
        assert response.read().endswith(b"data: [DONE]\n\n")
