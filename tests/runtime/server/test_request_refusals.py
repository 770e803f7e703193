"""What docs/inputs.md says is refused of a request: every row of its table, with several inputs of its kind."""

import pytest
from support.chat_requests import (
    DATA,
    IMAGE,
    PLAIN,
    REFUSAL,
    URL,
    WORDS,
    after,
    form,
    page_rows,
    post,
    said,
    seen,
    sent,
    with_field,
)
from support.serving import running

UNKNOWN = [
    (said(new=False), 400, "new"),
    (with_field("message", "new", 1), 400, "messages[0].new"),
    (with_field("part", "new", "a"), 400, "messages[0].content[0].new"),
    (with_field("picture", "new", 0), 400, "messages[0].content[0].image_url.new"),
    (said(stream=True, stream_options={"other": 1}), 400, "stream_options.other"),
]


def schema(value):
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}


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
    "picture in a message that isn't the user's; more pictures in a conversation than `--max-pictures`": [
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, 400, "messages[0].content[0]"),
        ({"messages": [{"role": "system", "content": [IMAGE]}, *PLAIN]}, 400, "messages[0].content[0]"),
        ({"messages": seen(*[IMAGE] * 5)}, 400, "messages[0].content[4].image_url"),
        ({"messages": seen(WORDS, *[IMAGE] * 6)}, 400, "messages[0].content[5].image_url"),
        (
            after({"role": "assistant", "content": "a"}, question=seen(*[IMAGE] * 3, WORDS)),
            400,
            "messages[2].content[1].image_url",
        ),
    ],
    "pictures that together take more tokens than the context": [
        ({"messages": seen(*[IMAGE] * 4, {"type": "text", "text": "how many ? " * 700})}, 400, "messages")
    ],
    "`tool_calls`, `tool_call_id`, `function_call`, `audio`, `refusal` of a message that say something": [
        (with_field("message", name, value), 400, f"messages[0].{name}")
        for name, value in (
            ("tool_calls", [{}]),
            ("function_call", {"name": "f"}),
            ("audio", {"id": "a"}),
            ("refusal", "No."),
            ("tool_call_id", "a"),
        )
    ],
    "numbers of these outside [their ranges](serving.md#how-tokens-are-drawn), and what is no number": [
        (said(**{name: value}), 400, name)
        for name, value in (
            ("temperature", -0.1),
            ("temperature", True),
            ("temperature", "1"),
            ("temperature", 1e400),
            ("temperature", 10**400),
            ("top_p", 0),
            ("top_p", 1.1),
            ("top_k", -2),
            ("top_k", 1.5),
            ("min_p", 2),
            ("seed", 0.5),
            ("seed", True),
            ("frequency_penalty", 3),
            ("presence_penalty", -3),
            ("repetition_penalty", 0),
            ("repeat_penalty", "a"),
        )
    ],
    "others of these, `top_logprobs` without `logprobs`": [
        (said(logprobs=1), 400, "logprobs"),
        (said(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
        (said(logprobs=True, top_logprobs=True), 400, "top_logprobs"),
        (said(top_logprobs=2), 400, "top_logprobs"),
        *((said(n=value), 400, "n") for value in (0, 17, -1, 1.0, True, "2")),
    ],
    "another `response_format`, a schema that can't be followed, choices that are empty or the same, both at once": [
        *(
            (said(response_format=value), 400, "response_format")
            for value in ("json", {"type": "xml"}, {"type": []}, ["json_object"], schema({"type": "objekt"}))
        ),
        (said(response_format=schema({"$ref": "https://example.org/a"})), 400, "response_format"),
        (said(response_format=schema({"type": "string", "pattern": "(?=a)"})), 400, "response_format"),
        (said(response_format={"type": "json_object"}, choices=["a"]), 400, "response_format"),
        *(
            (said(response_format={"type": "json_schema", **more}), 400, "response_format.json_schema")
            for more in ({}, {"json_schema": 1}, {"json_schema": {"schema": []}}, schema({"title": "a" * 70_000}))
        ),
        *(
            (said(choices=value), 400, "choices")
            for value in ("yes", [1], [""], [" "], ["a", "a"], ["a"] * 257, ["a" * 10_001], {"a": 1}, ["\ud800"])
        ),
        (said(choices=["a"], guided_choice=["a"]), 400, "choices"),
        (said(choices=["two cars"], max_tokens=1), 400, "max_tokens"),
    ],
    "`chat_template`, `documents`, `audio`, `grammar`, `guided_json`, `guided_regex`, `structured_outputs`, `stop_token_ids`, "
    "`bad_words`, `web_search_options` and their like": [
        (said(**{name: value}), 400, name)
        for name, value in (
            ("chat_template", "{{ messages }}"),
            ("documents", ["a"]),
            ("audio", {"voice": "a"}),
            ("grammar", 'root ::= "a"'),
            ("guided_json", {"type": "integer"}),
            ("structured_outputs", {"choice": ["a"]}),
            ("stop_token_ids", [1]),
            ("bad_words", ["a"]),
            ("web_search_options", {"a": 1}),
        )
    ],
    "the same with other values": [
        (said(**{name: value}), 400, name)
        for name, value in (
            ("best_of", 2),
            ("length_penalty", 2),
            ("typical_p", 0.5),
            ("min_tokens", 5),
            ("mirostat", 2),
            ("tools", [{"type": "function", "function": {"name": "f"}}]),
            ("functions", [{"name": "f"}]),
            ("tool_choice", "required"),
            ("function_call", {"name": "f"}),
            ("modalities", ["text", "audio"]),
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
        (
            said(stream=True, stream_options={"continuous_usage_stats": True}),
            400,
            "stream_options.continuous_usage_stats",
        ),
    ],
    "text that isn't Unicode, Unicode's noncharacters U+FDD0 to U+FDD2, more than 30 combining characters in a row": [
        ({"messages": [{"role": "user", "content": text}]}, 400, "messages")
        for text in ("\ud800", "a\udc00b", "\ufdd0", "\ufdd1", "\ufdd2", "e" + "\u0301" * 31)
    ],
    "another model's name": [
        (said(model="other"), 404, "model"),
        (said(model="\ud800"), 404, "model"),
        (said(model=3), 400, "model"),
    ],
    "a body that is no JSON object": [
        (body, 400, None) for body in (b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b"[" * 90_000)
    ],
}


def test_the_page_has_the_same_rows():
    assert {name for name, answer in page_rows().items() if REFUSAL.search(answer)} == REFUSED.keys()


def test_a_strict_server_refuses_what_it_does_not_know(shared_engine):
    with running(shared_engine, rules={"strict": True}) as served:
        check(served, UNKNOWN)


def test_an_unknown_field_is_told_once(shared_engine, caplog):
    caplog.set_level("INFO", "skd.serve")
    with running(shared_engine) as served:
        for request, _, _ in UNKNOWN * 2:
            assert post(served, request | {"stream": False, "stream_options": None, "newer": 1})[0] == 200
        told = [line for line in caplog.messages if "isn't known" in line]
        assert len(told) == 2 and "'new'" in told[0] and "'newer'" in told[1]
        for number in range(500):
            post(served, {"messages": [], f"field {number}": 1})
    assert len([line for line in caplog.messages if "isn't known" in line]) == 200


@pytest.mark.parametrize("row", REFUSED)
def test_refused(shared_server, row):
    check(shared_server, REFUSED[row])


def check(shared_server, cases):
    for request, expected, param in cases:
        status, error = post(shared_server, request)
        assert status == expected and error["param"] == param, (request, error)
        assert "\n" not in error["message"] and len(error["message"]) < 300
    assert post(shared_server, said())[0] == 200
