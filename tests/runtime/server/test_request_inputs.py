"""What docs/inputs.md says is taken of a request: every row of its table, with several inputs of its kind."""

import base64
import json
import urllib.request

import pytest
from support.chat_requests import (
    ASKED,
    DATA,
    IMAGE,
    LEFT,
    OTHER,
    PLAIN,
    REFUSAL,
    RIGHT,
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
from support.serving import PATIENCE, about, running

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
    "words around the picture, or between several": [
        (
            {"messages": seen({"type": "text", "text": before}, IMAGE, {"type": "text", "text": behind})},
            {"messages": about(URL, "look\nhow many ?")},
        )
        for before, behind in (("look", "how many ?"), ("look\n", "\nhow many ?"), ("look", "\nhow many ?"))
    ]
    + [
        (
            {"messages": seen(*parts, WORDS)},
            {"messages": seen(IMAGE, OTHER, {"type": "text", "text": f"left :\nright :\n{ASKED}"})},
        )
        for parts in (
            (LEFT, IMAGE, RIGHT, OTHER),
            (LEFT, IMAGE, {"type": "text", "text": "\nright"}, {"type": "text", "text": " :\n"}, OTHER),
        )
    ],
    "several pictures in a message, or over the conversation": [
        ({"messages": seen(IMAGE, WORDS, OTHER)}, {"messages": seen(IMAGE, OTHER, WORDS)}),
        (
            {"messages": [*sent(URL), {"role": "assistant", "content": "two"}, *seen(WORDS, OTHER)]},
            {"messages": [*sent(URL), {"role": "assistant", "content": "two"}, *seen(OTHER, WORDS)]},
        ),
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
    "no `model`": [(said(model=None), said())],
    "`user`, `metadata`, `store`, `service_tier`, `parallel_tool_calls`, `safety_identifier`": [
        (said(**{name: value}), said())
        for name, value in (
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
    "`temperature` 0 or none, whatever `top_p`, `top_k`, `min_p` and `seed` say, penalties that are off": [
        (said(**{name: value}), said())
        for name, value in (
            ("temperature", 0),
            ("temperature", 0.0),
            ("temperature", None),
            ("top_p", 1.0),
            ("top_p", 0.5),
            ("top_k", 7),
            ("top_k", 0),
            ("top_k", -1),
            ("min_p", 0.2),
            ("seed", 3),
            ("frequency_penalty", 0),
            ("presence_penalty", 0),
            ("repetition_penalty", 1.0),
            ("repeat_penalty", 1),
        )
    ],
    "a `temperature` with or without these, `repetition_penalty` or `repeat_penalty`, `frequency_penalty`, `presence_penalty`": [
        (said(temperature=1, top_k=1), said()),
        (said(temperature=1e-30, seed=-4), said()),
        (said(temperature=1, top_p=0.9, seed=1 << 80), said(temperature=1, top_p=0.9, seed=1 << 80)),
        (said(repeat_penalty=1.4), said(repetition_penalty=1.4)),
        *((said(**{name: 2}), None) for name in ("frequency_penalty", "presence_penalty", "temperature")),
    ],
    "`logprobs`, `top_logprobs` from 0 to 20, `n` from 1 to 16": [
        (said(**fields), said())
        for fields in (
            {"n": 1},
            {"n": 3},
            {"logprobs": False, "top_logprobs": 0},
            {"logprobs": True},
            {"logprobs": True, "top_logprobs": 20},
        )
    ],
    "`response_format` of the types text, json_object and json_schema; `choices` or `guided_choice`: a list of texts": [
        (said(response_format={"type": "text"}, choices=[], guided_choice=None), said()),
        (said(response_format={"type": "json_object"}), None),
        (
            said(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}),
            None,
        ),
        (said(choices=["two", "a car"]), said(guided_choice=["two", "a car"])),
    ],
    "`tools`, `functions` empty, `tool_choice` and `function_call` none or auto, `modalities` of text; `best_of`, "
    "`length_penalty`, `typical_p` 1, `min_tokens`, `mirostat` 0": [
        (said(**{name: value}), said())
        for name, value in (
            ("tools", []),
            ("functions", []),
            ("tool_choice", "none"),
            ("tool_choice", "auto"),
            ("function_call", "none"),
            ("modalities", ["text"]),
            ("logit_bias", {}),
            ("best_of", 1),
            ("length_penalty", 1),
            ("typical_p", 1.0),
            ("min_tokens", 0),
            ("mirostat", 0),
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
    "any field that isn't known and says something": [
        (said(new=False), said()),
        (said(thinking={"type": "enabled"}), said()),
        *((with_field(place, "new", value), said()) for place in ("message", "part", "picture") for value in (0, "a")),
    ],
    'any field that isn\'t known and says nothing: null, `[]`, `{}`, `""`': [
        *((said(new=value), said()) for value in (None, [], {}, "")),
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


def test_the_page_has_the_same_rows():
    assert {name for name, answer in page_rows().items() if not REFUSAL.search(answer)} == TAKEN.keys()


@pytest.mark.parametrize("row", TAKEN)
def test_taken(shared_server, row):
    for request, plainest in TAKEN[row]:
        status, answer = post(shared_server, request)
        assert status == 200 and answer, (request, answer)
        if plainest is not None:
            assert (status, answer) == post(shared_server, plainest), request


def test_smaller_limits_and_streams_are_taken(shared_server):
    """What the rows on lengths, stop texts and streams say of what is taken."""
    whole = post(shared_server, said())[1]
    assert whole.startswith(post(shared_server, said(max_tokens=9, max_completion_tokens=2))[1])
    assert post(shared_server, said(stop=[whole[2:4], "never"]))[1] == whole[: whole.index(whole[2:4])]
    options = {"include_usage": True, "include_obfuscation": True, "continuous_usage_stats": False}
    chunks = list(shared_server.ask(about(URL, ASKED), stream=True, stream_options=options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole


def test_the_order_makes_a_difference_to_the_model(shared_engine, caplog):
    """So the rows on words before a picture say something; and `sent` leaves the picture where it is, and tells it."""
    caplog.set_level("INFO", "skd.serve")
    with running(shared_engine, rules={"pictures_first": False}) as served:
        first, last = (post(served, {"messages": seen(*parts)}) for parts in ((IMAGE, WORDS), (WORDS, IMAGE)))
        assert first[0] == last[0] == 200 and first != last
    assert sum("sent leaves it there" in line for line in caplog.messages) == 1


def test_streams_tell_proxies_to_pass_pieces_on(shared_server):
    body = json.dumps({"model": shared_server.app.model, **said(stream=True)}).encode()
    call = urllib.request.Request(f"{shared_server.url}/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=PATIENCE) as response:
        assert response.headers["x-accel-buffering"] == "no" and response.headers["cache-control"] == "no-store"
        assert response.read().endswith(b"data: [DONE]\n\n")
