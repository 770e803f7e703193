"""One variant's process and its parent's side of it: operations, errors, an end."""

import numpy as np
import pytest

from switchkd.errors import SkdError
from switchkd.runtime.bench import session, worker
from switchkd.runtime.bench.session import QuestionError, Session, SessionError
from switchkd.runtime.engines.opening import open_engine

# With the runner's tests, whose models they share.
pytestmark = pytest.mark.xdist_group("bench")


def test_an_answer_ends_with_the_context(models, tmp_path):
    """The reference's answer, and a variant that has less room than the reference had."""
    asked = {"images": [], "messages": [{"role": "user", "content": "red"}], "file": str(tmp_path / "rows.npy")}
    with open_engine(models / "onnx-fp32", threads=1, verify=False) as engine:
        prompt = len(engine.encode_prompt(asked["messages"]))
    opened = {"threads": 1, "device": "cpu", "frames": 0}
    found = []
    for name in ("student", "onnx-fp32"):
        asked_of = worker.Worker(str(models / name), context=prompt + 5, **opened)
        asked_of.engine.end_tokens = frozenset()
        found.append(asked_of.refer(**asked, max_tokens=50)["tokens"])
        asked_of.engine.close()
    assert len(found[0]) == 5 and found[0] == found[1]
    asked_of = worker.Worker(str(models / "onnx-fp32"), context=prompt + 3, **opened)
    compared = asked_of.compare(**asked, tokens=found[1])
    asked_of.engine.close()
    assert len(compared["kl"]) == 3 and compared["same"] == [True] * 3 and max(compared["kl"]) < 1e-6


def test_a_process_that_gives_no_reply_is_ended_and_that_is_said(models, monkeypatch):
    monkeypatch.setattr(session, "_PATIENCE", 0.2)
    with pytest.raises(SessionError, match=r"^no reply for 0 minutes, so its process was ended\.$"):
        Session("x", folder=str(models / "onnx-q8"), threads=1, context=64, device="cpu", frames=0)


def test_a_session_tells_errors_in_one_line(models, tmp_path):
    with pytest.raises(SessionError, match="neither an export"):
        Session("x", folder=str(tmp_path), threads=1, context=64, device="cpu", frames=0)
    with Session("x", folder=str(models / "onnx-q8"), threads=1, context=64, device="cpu", frames=0) as opened:
        with pytest.raises(SkdError, match="no operation 'close'"):
            opened.call("close")
        with pytest.raises(QuestionError, match="more than the context"):
            opened.call("ask", images=[], messages=[{"role": "user", "content": "red " * 200}], max_tokens=1)
        assert (
            opened.call("ask", images=[], messages=[{"role": "user", "content": "red"}], max_tokens=1)["new_tokens"]
            == 1
        )


def test_logits_of_another_size(models, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((2, 7), np.float32))
    with Session("x", folder=str(models / "onnx-q8"), threads=1, context=64, device="cpu", frames=0) as opened:
        compared = opened.call(
            "compare",
            images=[],
            messages=[{"role": "user", "content": "red"}],
            tokens=[1, 2],
            file=str(tmp_path / "rows.npy"),
        )
    assert compared == {"kl": None, "same": None}
