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


def test_the_page_has_the_same_rows():
    assert {name for name, answer in page_rows().items() if REFUSAL.search(answer)} == REFUSED.keys()


@pytest.mark.parametrize("row", REFUSED)
def test_refused(shared_server, row):
    for request, expected, param in REFUSED[row]:
        status, error = post(shared_server, request)
        assert status == expected and error["param"] == param, (request, error)
        assert "\n" not in error["message"] and len(error["message"]) < 300
    assert post(shared_server, said())[0] == 200
