"""A new release is asked before anything leads to it: what passes, what doesn't, and that nothing has changed then."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support import packages

from switchkd.cli.main import main
from switchkd.errors import MissingDependencyError, SkdError
from switchkd.export.shipping.ship import RUN_SCRIPT
from switchkd.manifest import Manifest
from switchkd.runtime.engines import versions
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.packages.format import QUESTION, PackageError
from switchkd.runtime.packages.install import Installation
from switchkd.runtime.packages.question import KnownQuestion

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def variant(shelf):
    return shelf.export("gguf", "q8")


@pytest.fixture(scope="module")
def engine(variant):
    with open_engine(variant, threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def question(engine):
    return KnownQuestion.asked(engine)


@pytest.fixture(scope="module")
def packed(tmp_path_factory, variant, question, keys):
    """Release → package: 1 and 2 hold the right answer, 3 holds another."""
    folder = tmp_path_factory.mktemp("packed")
    files = {
        f"variant/{name}": (variant / name).read_bytes() for name in [*Manifest.load(variant).files, "manifest.json"]
    }
    other = replace(question, tokens=[*question.tokens[:-1], question.tokens[-1] ^ 1])
    answers = {1: question, 2: question, 3: other}
    return {
        release: packages.write(
            folder / f"{release}.tar",
            keys[0],
            {"run": RUN_SCRIPT.encode(), QUESTION: answer.to_bytes(), **files},
            release=release,
        )
        for release, answer in answers.items()
    }


@pytest.fixture
def student(tmp_path, packed, keys):
    """A folder with release 1."""
    device = Installation(tmp_path / "student")
    device.install(packed[1], [keys[1]])
    return device


@pytest.fixture
def skd(keys, monkeypatch):
    """The real command line; `program`: what `run` starts, instead of this skd."""
    monkeypatch.delenv("SKD", raising=False)

    def call(*arguments: object, status: int = 0, program: Path | None = None) -> str:
        if program is not None:
            monkeypatch.setenv("SKD", str(program))
        result = CliRunner().invoke(main, [*map(str, arguments), "--key", str(keys[2])])
        assert result.exit_code == status, result.output
        if status == 1:
            assert result.output.startswith("Error: ") and result.output.count("\n") == 1
        return result.output

    return call


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return path


def test_the_answer_as_it_was(skd, packed, student):
    assert "release 2" in skd("install", packed[2], student.folder) and student.current == 2
    assert "wasn't asked" not in skd("install", packed[2], student.folder)


def test_another_answer_changes_nothing(skd, packed, student, tmp_path):
    """Nor is the hook run; the counter stays, so the release before can still come."""
    before = packages.tree(student.folder)
    hook = ("--hook", f"touch {tmp_path / 'ran'}")
    error = skd("install", packed[3], student.folder, *hook, status=1)
    assert "answers otherwise than where it was packed: token" in error and "--no-check" in error
    assert packages.tree(student.folder) == before and student.highest == 1 and not (tmp_path / "ran").exists()
    skd("install", packed[2], student.folder)
    skd("install", packed[3], student.folder, "--no-check", *hook)
    assert student.current == 3 and (tmp_path / "ran").exists()
    skd("install", "--rollback", student.folder)
    assert "answers otherwise" in skd("install", packed[3], student.folder, status=1)
    assert packages.links(student) == (2, None, {"2", "3"})


def test_an_older_package_installs_as_before(skd, shipped, device):
    assert "holds no known question" in skd("install", shipped[2], device.folder) and device.current == 2


def test_what_the_runtime_lacks_is_named(skd, packed, student, tmp_path):
    without = "import sys; sys.modules['llama_cpp'] = None; from switchkd.cli.main import main; main()"
    cases = {
        f'exec {sys.executable} -c "{without}" "$@"': "llama.cpp isn't installed, which runs it: pip install",
        "echo \"Error: No such command 'known-answer'.\" >&2; exit 2": "too old to ask",
        "kill -ILL $$": "ended by SIGILL",
        "kill -KILL $$": "ended by SIGKILL, as where memory runs out",
        f"cat /proc/self/oom_score_adj >{tmp_path / 'score'}; exit 3": "ended with status 3",
    }
    before = packages.tree(student.folder)
    for number, (line, wanted) in enumerate(cases.items()):
        program = script(tmp_path / str(number), line)
        assert wanted in skd("install", packed[2], student.folder, status=1, program=program)
    assert (tmp_path / "score").read_text() == "1000\n"  # a server that runs isn't what memory is taken from
    assert "not found" in skd("install", packed[2], student.folder, status=1, program=tmp_path / "nothing")
    assert packages.tree(student.folder) == before


def test_one_that_hangs_is_ended_with_all_that_it_started(skd, packed, student, tmp_path):
    fifo, before = tmp_path / "fifo", packages.tree(student.folder)
    os.mkfifo(fifo)
    program = script(tmp_path / "hangs", f"cat {fifo} &", "wait")
    error = skd("install", packed[2], student.folder, "--check-seconds", "0.3", status=1, program=program)
    assert "didn't answer in 0.3 s" in error and packages.tree(student.folder) == before


def test_what_passes_follows_from_the_logits(engine, question):
    """Against a literal reading of the rule, over random answers and ties."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.prompt}]}]
    from PIL import Image

    features = engine.encode_image(Image.fromarray(question.pixels))
    ids, rng, seen = engine.encode_prompt(messages), np.random.default_rng(0), set()
    for _ in range(25):
        tokens = [int(each) for each in question.tokens]
        for place in rng.integers(0, len(tokens), 2):
            tokens[place] = int(rng.integers(0, 200))
        tie = float(rng.choice([0.0, 1.0, 2.0, 4.0]))
        rows = list(engine.follow(ids, tokens, features))
        right = all(max(row) - row[token] <= tie * np.std(row) for row, token in zip(rows, tokens, strict=True))
        seen.add(right)
        try:
            replace(question, tokens=tokens, near_tie=tie).hold(engine)
            assert right
        except SkdError:
            assert not right
    assert seen == {True, False}
    with pytest.raises(SkdError, match="token 1 is"):
        replace(question, tokens=[10**9], near_tie=0.05).hold(engine)


def test_the_answer_is_the_greedy_one(engine, question, tmp_path):
    (tmp_path / QUESTION).write_bytes(question.to_bytes())
    read = KnownQuestion.load(tmp_path)
    assert (read.pixels == question.pixels).all() and read.to_bytes() == question.to_bytes()
    from PIL import Image

    features = engine.encode_image(Image.fromarray(read.pixels))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": read.prompt}]}]
    said = list(engine.tokens(engine.encode_prompt(messages), features, max_new_tokens=8))
    assert said == [token for token in read.tokens if token not in engine.end_tokens]


def test_torn_ones_are_refused(question, tmp_path):
    value = json.loads(question.to_bytes())
    torn = [
        b"",
        b"[]",
        json.dumps(value | {"schema": 2}).encode(),
        json.dumps(value | {"tokens": []}).encode(),
        json.dumps(value | {"tokens": [-1]}).encode(),
        json.dumps(value | {"picture": value["picture"] | {"width": 7}}).encode(),
        json.dumps(value | {"near_tie": None}).encode(),
    ]
    for content in torn:
        (tmp_path / QUESTION).write_bytes(content)
        with pytest.raises(PackageError, match=r"question\.json"):
            KnownQuestion.load(tmp_path)


def test_a_runtime_that_is_too_old(variant, monkeypatch):
    manifest = Manifest.load(variant, verify=False)
    versions.require_runtimes(manifest)
    assert versions.least_versions()["llama-cpp-python"] == "0.3.36"
    monkeypatch.setattr(versions, "least_versions", lambda: {"llama-cpp-python": "99.1"})
    with pytest.raises(
        MissingDependencyError, match=r"99\.1 is the oldest that runs it: pip install --upgrade 'switchkd\[gguf\]'"
    ):
        versions.require_runtimes(manifest)


def test_a_server_that_run_started_is_seen(skd, student):
    """By `skd status`, as long as it runs, also when another release is in use."""
    command = [student.folder / "current" / "run", "serve", "--port", "0", "--threads", "1"]
    environment = {**os.environ, "SKD": str(Path(sys.executable).with_name("skd"))}
    with subprocess.Popen(command, stdout=-1, text=True, env=environment) as server:
        assert " answers at http://127.0.0.1:" in server.stdout.readline()
        status = json.loads(CliRunner().invoke(main, ["status", str(student.folder), "--json"]).output)
        assert status["running"] == [1] and status["releases"][0]["processes"] in ([server.pid], [])
        server.send_signal(signal.SIGTERM)
    status = json.loads(CliRunner().invoke(main, ["status", str(student.folder), "--json"]).output)
    assert status["running"] == []


@pytest.mark.parametrize("kind", ["target", "venv"])
def test_the_runtime_beside_the_releases_is_used(skd, packed, student, kind, tmp_path):
    """A folder as `pip install --target` makes it, or a virtual environment: `run` and `install` take the skd in it."""
    runtime, ran = student.folder / "runtime", tmp_path / "ran"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("SKD", None)
    if kind == "target":
        package = runtime / "switchkd"
        package.mkdir(parents=True)
        for folder in (
            *(ROOT / "switchkd").iterdir(),
            *(ROOT / name for name in ("cli", "export", "hardware", "runtime")),
        ):
            (package / folder.name).symlink_to(folder)
        (runtime / "sitecustomize.py").write_text(f"open({str(ran)!r}, 'a').write('x')\n")
    else:
        (runtime / "bin").mkdir(parents=True)
        (runtime / "pyvenv.cfg").touch()
        script(runtime / "bin" / "skd", f"echo x >> {ran}", f'exec {Path(sys.executable).with_name("skd")} "$@"')
    shown = subprocess.run(
        [student.folder / "current" / "run", "known-answer"], env=environment, capture_output=True, text=True
    )
    assert (shown.returncode, shown.stdout) == (0, "It answers as it did where it was packed.\n"), shown.stderr
    assert ran.exists()
    ran.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", environment["PATH"])
        skd("install", packed[2], student.folder)
        assert ran.exists() and student.current == 2
    shutil.rmtree(runtime)
