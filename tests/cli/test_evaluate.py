"""`skd eval`: checkpoints and exports side by side, on the same questions; an export without torch."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support.llava_models import make_checkpoint, picture

from switchkd.cli.main import main
from switchkd.data.questions import read_questions
from switchkd.export.folder import ExportRequest, run_export
from switchkd.models.answerer import Answerer
from switchkd.overlap import rouge_l
from switchkd.pictures import open_image
from switchkd.runtime.engines.opening import open_engine
from switchkd.scoring import Paired, is_right


def skd(*arguments: object, fails: bool = False) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    assert (result.exit_code != 0) == fails, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, an export as exact as it, a coarse one, and questions whose expected answers the checkpoint gave to
    every second of them."""
    folder = tmp_path_factory.mktemp("eval")
    checkpoint = make_checkpoint(folder / "student")
    for quant in ("f32", "q4"):
        run_export(ExportRequest(checkpoint, folder / quant, quant=quant, threads=1))
    (folder / "images").mkdir()
    texts = ["how many cars ?", "is the light green ?", "what is on the left ?"]
    records = []
    for number in range(12):
        picture(number).save(folder / "images" / f"{number}.png")
        records.append(
            {
                "id": f"q{number}",
                "kind": "even" if number % 2 == 0 else "odd",
                "image": f"{number}.png",
                "conversations": [
                    {"from": "human", "value": f"<image>\n{texts[number % 3]}"},
                    {"from": "gpt", "value": "unsayable"},
                ],
            }
        )
    records.append(
        {"id": "t", "kind": "even", "conversations": [{"from": "human", "value": "2 ?"}, {"from": "gpt", "value": "x"}]}
    )
    file = folder / "questions.json"
    file.write_text(json.dumps(records))
    answers = Answerer(checkpoint).answer(read_questions(file, folder / "images")[:12], max_new_tokens=6)
    for record, answer in list(zip(records, answers, strict=False))[::2]:
        record["conversations"][1]["value"] = answer or "unsayable"  # a record's answer can't be empty
    file.write_text(json.dumps(records))
    (folder / "right.txt").write_text(str(sum(bool(answer) for answer in answers[::2])))
    return folder


@pytest.fixture
def accuracy(folder) -> str:
    """Of the checkpoint, as the table has it."""
    right = int((folder / "right.txt").read_text())
    assert 2 <= right <= 6
    return f"{100 * right / 13:.1f} ("


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_models_are_compared_on_the_same_questions(folder, tmp_path, accuracy):
    out = tmp_path / "scores.json"
    asked = ("--data", "questions.json", "--max-tokens", 6, "--threads", 1, "--json", out)
    output = skd("eval", "student", "f32", "q4", *asked)
    written = json.loads(out.read_text())
    assert list(written["models"]) == ["student", "f32", "q4"] and written["reference"] == "student"
    questions = read_questions(folder / "questions.json", folder / "images")
    with open_engine(folder / "q4", threads=1) as engine:
        literal = [engine.answer(one.messages, *map(open_image, one.images), max_new_tokens=6) for one in questions]
    assert [row["answer"] for row in written["models"]["q4"]["answers"]] == literal
    # The float32 export says what the checkpoint says, one by one as in a batch.
    student = written["models"]["student"]
    assert [row["answer"] for row in written["models"]["f32"]["answers"]] == [
        row["answer"] for row in student["answers"]
    ]
    scores = student["scores"]
    assert scores["even"]["right"] == scores["all"]["right"] == int((folder / "right.txt").read_text())
    assert (scores["even"]["total"], scores["odd"]["total"], scores["odd"]["right"]) == (7, 6, 0)
    right = [is_right(answer, one.answer) for answer, one in zip(literal, questions, strict=True)]
    reference = [is_right(row["answer"], row["expected"]) for row in student["answers"]]
    lost = sum(before and not after for before, after in zip(reference, right, strict=True))
    won = sum(after and not before for before, after in zip(reference, right, strict=True))
    paired = Paired(lost, won, 13)
    assert written["compared"]["q4"] == {
        "difference": paired.difference,
        "interval": list(paired.interval()),
        "lost": lost,
        "won": won,
        "p_value": paired.p_value,
    }
    assert written["compared"]["f32"]["lost"] == written["compared"]["f32"]["won"] == 0
    assert f"{100 * paired.difference:+.1f} (" in output and "Against student" in output and accuracy in output


def test_one_export_alone_is_written_as_one_checkpoint_is(tmp_path):
    for model in ("student", "f32"):
        skd("eval", model, "--data", "questions.json", "--max-tokens", 6, "--json", tmp_path / f"{model}.json")
    assert (tmp_path / "student.json").read_text() == (tmp_path / "f32.json").read_text()


def test_long_answers(folder, tmp_path):
    """The limit follows the longest expected answer; a cut is counted as it happened, for a checkpoint as for an export; a
    conversation is asked turn by turn; the measure follows the expected answers' length."""
    words = " ".join(["a red car stands at the light and"] * 4)
    talk = [("human", "<image>\nwhat is there ?"), ("gpt", words), ("human", "and then ?"), ("gpt", f"then {words}")]
    turns = [{"from": who, "value": text} for who, text in talk]
    (tmp_path / "talk.json").write_text(json.dumps([{"id": "c", "image": "0.png", "conversations": turns}]))
    asked = ("--data", tmp_path / "talk.json", "--images", "images", "--threads", 1)
    with open_engine(folder / "f32", threads=1) as engine:
        limit = -(-3 * len(engine.prompt.encode_text(f"then {words}")) // 2)
        assert limit > 16
        texts, ended = [], []
        for question in read_questions(tmp_path / "talk.json", folder / "images"):
            texts.append(engine.answer(question.messages, *map(open_image, question.images), max_new_tokens=limit))
            ended.append(engine.timings.ended)
    for model in ("f32", "student"):
        output = skd("eval", model, *asked, "--json", tmp_path / "out.json")
        written = json.loads((tmp_path / "out.json").read_text())
        assert [row["answer"] for row in written["answers"]] == texts
        assert [row["id"] for row in written["answers"]] == ["c/1", "c/2"]
        assert written["cut"] == ended.count(False) and written["measure"] == "rouge-l"
        assert written["scores"]["all"]["mean"] == pytest.approx(
            (rouge_l(texts[0], words) + rouge_l(texts[1], f"then {words}")) / 2
        )
        assert "ROUGE-L" in output
    short = skd("eval", "f32", "student", *asked, "--max-tokens", 1, "--score", "exact")
    assert short.count("2 of 2 answers were cut at 1 tokens") == 2 and "Accuracy on held-out" in short
    assert "F1, %" in skd("eval", "f32", *asked, "--max-tokens", 1, "--score", "f1")


def test_an_export_by_its_name_in_the_newest_run(folder, tmp_path, monkeypatch, accuracy):
    monkeypatch.chdir(tmp_path)
    exports = tmp_path / "runs" / "first" / "exports"
    exports.mkdir(parents=True)
    (exports / "student-gguf-f32").symlink_to(folder / "f32")
    (tmp_path / "runs" / "latest").symlink_to("first")
    output = skd("eval", "student-gguf-f32", "--data", folder / "questions.json", "--max-tokens", 6)
    assert accuracy in output


def test_one_bad_question_doesnt_lose_the_others_answers(folder, tmp_path):
    """Torn pictures and a question longer than any context: counted as wrong, told, gone on."""
    records = json.loads((folder / "questions.json").read_text())
    shutil.copytree(folder / "images", tmp_path / "images")
    for name, keep in (("1.png", 0), ("2.png", 99), ("5.png", -30)):
        path = tmp_path / "images" / name
        path.write_bytes(path.read_bytes()[:keep])
    records[7]["conversations"][0]["value"] += " cars" * 33_000
    (tmp_path / "questions.json").write_text(json.dumps(records))
    asked = ("--max-tokens", 6, "--threads", 1, "--batch-size", 5)
    skd("eval", "student", "f32", "--data", "questions.json", *asked, "--json", tmp_path / "whole.json")
    output = skd(
        "eval", "student", "f32", "--data", tmp_path / "questions.json", *asked, "--json", tmp_path / "some.json"
    )
    assert output.count("4 of 13 questions couldn't be asked and count as wrong") == 2
    whole, some = (json.loads((tmp_path / f"{name}.json").read_text())["models"] for name in ("whole", "some"))
    for model in ("student", "f32"):
        expected = [row["answer"] for row in whole[model]["answers"]]
        given = [row["answer"] for row in some[model]["answers"]]
        assert given == [None if number in (1, 2, 5, 7) else answer for number, answer in enumerate(expected)]
        assert some[model]["unanswered"] == 4 and whole[model]["unanswered"] == 0
        lost = is_right(expected[2], records[2]["conversations"][1]["value"])
        assert some[model]["scores"]["all"]["right"] == whole[model]["scores"]["all"]["right"] - lost
        assert some[model]["scores"]["all"]["total"] == 13


def test_questions_of_which_none_can_be_asked_are_an_error(folder, tmp_path):
    (tmp_path / "images").mkdir()
    records = json.loads((folder / "questions.json").read_text())[:3]
    for record in records:
        (tmp_path / "images" / record["image"]).write_bytes(b"torn")
    (tmp_path / "questions.json").write_text(json.dumps(records))
    for model in ("student", "f32"):
        output = skd("eval", model, "--data", tmp_path / "questions.json", fails=True)
        assert "None of the 3 questions can be asked" in output


def test_one_bad_model_doesnt_lose_the_others_scores(tmp_path, accuracy):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text("{")
    output = skd("eval", "f32", tmp_path / "torn", "--data", "questions.json", "--max-tokens", 6, fails=True)
    assert accuracy in output and "Error: torn: " in output


def test_whatever_a_library_raises_doesnt_lose_the_others_scores(monkeypatch, accuracy):
    """Memory that isn't there, a file of an unknown operator, …"""
    import switchkd.runtime.engines.opening as variants

    def open_or_die(folder, **settings):
        if folder.name == "q4":
            raise RuntimeError("[ONNXRuntimeError] : 6 :\n std::bad_alloc")
        return open_engine(folder, **settings)

    monkeypatch.setattr(variants, "open_engine", open_or_die)
    output = skd("eval", "q4", "f32", "--data", "questions.json", "--max-tokens", 6, fails=True)
    assert accuracy in output and "Error: q4: RuntimeError: [ONNXRuntimeError] : 6 : std::bad_alloc" in output


def test_without_the_first_model_nothing_is_compared(tmp_path):
    """But the file has the form that several models have."""
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text("{")
    out = tmp_path / "scores.json"
    asked = ("--data", "questions.json", "--max-tokens", 6, "--json", out)
    output = skd("eval", tmp_path / "torn", "f32", *asked, fails=True)
    written = json.loads(out.read_text())
    assert list(written["models"]) == ["f32"] and written["reference"] is None and written["compared"] == {}
    assert "Nothing is compared: torn is what" in output
    skd("eval", "f32", tmp_path / "torn", *asked, fails=True)
    written = json.loads(out.read_text())
    assert list(written["models"]) == ["f32"] and written["reference"] == "f32" and written["compared"] == {}


def test_a_file_that_cant_be_written_doesnt_lose_the_table(folder, accuracy):
    output = skd(
        "eval", "f32", "--data", "questions.json", "--max-tokens", 6, "--json", "right.txt/scores.json", fails=True
    )
    assert accuracy in output and "Error: right.txt/scores.json can't be written" in output


def test_names_and_kinds_are_printed_as_they_are(folder, tmp_path):
    records = json.loads((folder / "questions.json").read_text())[-1:]
    (tmp_path / "data.json").write_text(json.dumps([records[0] | {"kind": "[/red] of [bold]"}]))
    names = ("a[b]", "c [red]")
    for name in names:
        shutil.copytree(folder / "f32", tmp_path / name)
    output = skd("eval", *(tmp_path / name for name in names), "--data", tmp_path / "data.json", "--max-tokens", 2)
    assert "[/red] of [bold]" in output and "Against a[b]" in output and "c [red]" in output


def test_an_export_needs_no_torch(accuracy, tmp_path):
    blocked = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from switchkd.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", blocked, *arguments], capture_output=True, text=True)

    done = run("eval", "f32", "q4", "--data", "questions.json", "--max-tokens", "6")
    assert done.returncode == 0 and accuracy in done.stdout, done.stderr
    refused = run("eval", "student", "--data", "questions.json")
    assert refused.returncode == 1 and "switchkd[train]" in refused.stderr and "Traceback" not in refused.stderr
    out = tmp_path / "scores.json"
    both = run("eval", "f32", "student", "--data", "questions.json", "--max-tokens", "6", "--json", str(out))
    assert both.returncode == 1 and accuracy in both.stdout and "Traceback" not in both.stderr
    assert (
        "student: student is a PyTorch checkpoint, which needs an extra: pip install 'switchkd[train]'" in both.stderr
    )
    assert list(json.loads(out.read_text())["models"]) == ["f32"]
    unknown = run("eval", "nowhere", "--data", "questions.json")
    assert "There is no variant nowhere" in unknown.stderr
