"""Popular clients with what they send by default: pictures, streams, schemas, tools. LangChain and LiteLLM are a few hundred
megabytes: `make test-clients` installs them into a folder of their own and runs their tests."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field
from support.serving import PATIENCE, about, data_url, running

OTHERS = Path(__file__).parents[3] / ".cache" / "clients"
URL = data_url(1)
ALIAS = "gpt-4o-mini"


class Scene(BaseModel):
    """What is seen."""

    light: Literal["red", "green"]
    cars: int = Field(ge=0, le=9)


@pytest.fixture(scope="module")
def served(shared_engine):
    with running(shared_engine, aliases=(ALIAS,), max_tokens=60) as served:
        yield served


@pytest.fixture(scope="module")
def plain(served):
    return served.ask(about(URL)).choices[0].message.content


def test_openai(served, plain):
    client = openai.OpenAI(base_url=served.url, api_key="none")
    asked = {"model": ALIAS, "messages": about(URL)}
    assert client.chat.completions.create(**asked).choices[0].message.content == plain
    with client.chat.completions.stream(**asked) as stream:
        assert "".join(event.delta for event in stream if event.type == "content.delta") == plain
    parsed = client.chat.completions.parse(response_format=Scene, **asked).choices[0].message.parsed
    assert isinstance(parsed, Scene)
    with client.chat.completions.stream(response_format=Scene, **asked) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    with pytest.raises(openai.BadRequestError, match="calls no tools"):
        client.chat.completions.create(tools=[openai.pydantic_function_tool(Scene)], **asked)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl(served, plain, tmp_path):
    (tmp_path / "body.json").write_text(json.dumps({"model": ALIAS, "messages": about(URL)}))

    def curl(*words):
        command = ["curl", "--silent", "--show-error", f"{served.url}/chat/completions", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    typed = ["-H", "Content-Type: application/json", "-d", f"@{tmp_path / 'body.json'}"]
    assert json.loads(curl(*typed))["choices"][0]["message"]["content"] == plain
    assert json.loads(curl("--json", f"@{tmp_path / 'body.json'}"))["choices"][0]["message"]["content"] == plain
    # Without its type a body is refused: so is a web page's.
    assert "application/json" in json.loads(curl("-d", f"@{tmp_path / 'body.json'}"))["error"]["message"]


LANGCHAIN = """
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
model = ChatOpenAI(model=name, base_url=url, api_key="none", max_retries=0)
words = {"type": "text", "text": "how many cars ?"}
asked = [HumanMessage([{"type": "image_url", "image_url": {"url": picture}}, words])]
block = {"type": "image", "base64": picture.partition(",")[2], "mime_type": "image/png"}
say("whole", model.invoke(asked).content)
say("block", model.invoke([HumanMessage([block, words])]).content)
say("stream", "".join(chunk.content for chunk in model.stream(asked)))
say("schema", model.with_structured_output(Scene).invoke(asked).model_dump())
say("tools", refusal(lambda: model.bind_tools([Scene]).invoke(asked)))
"""
LITELLM = """
import litellm
words = {"type": "text", "text": "how many cars ?"}
messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}, words]}]
asked = {"model": "openai/" + name, "api_base": url, "api_key": "none", "messages": messages}
text = lambda answer: answer.choices[0].message.content
say("whole", text(litellm.completion(**asked)))
stream = litellm.completion(stream=True, **asked)
say("stream", "".join(chunk.choices[0].delta.content or "" for chunk in stream))
say("schema", Scene.model_validate_json(text(litellm.completion(response_format=Scene, **asked))).model_dump())
tools = [{"type": "function", "function": {"name": "f", "parameters": Scene.model_json_schema()}}]
say("tools", refusal(lambda: litellm.completion(tools=tools, **asked)))
"""
HEAD = """
import json, sys
from typing import Literal
from pydantic import BaseModel, Field
url, picture, name = sys.argv[1:]
class Scene(BaseModel):
    light: Literal["red", "green"]
    cars: int = Field(ge=0, le=9)
def say(what, value):
    print("SAID", json.dumps([what, value]))
def refusal(call):
    try:
        return repr(call())
    except Exception as error:
        return str(error)
"""


@pytest.mark.skipif(not OTHERS.exists(), reason="LangChain and LiteLLM aren't installed: make test-clients")
@pytest.mark.parametrize("script", [LANGCHAIN, LITELLM], ids=["LangChain", "LiteLLM"])
def test_others(served, plain, script):
    # LiteLLM would fetch a list of prices, LangChain would report to its makers where that is switched on.
    environment = {**os.environ, "PYTHONPATH": str(OTHERS), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment |= {"LANGSMITH_TRACING": "false"}
    command = [sys.executable, "-c", HEAD + script, served.url, URL, ALIAS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("SAID ") for line in done.stdout.splitlines() if line.startswith("SAID ")]
    said = dict(map(json.loads, lines))
    assert said["whole"] == said["stream"] == said.get("block", plain) == plain
    assert Scene.model_validate(said["schema"])
    assert "calls no tools" in said["tools"]
