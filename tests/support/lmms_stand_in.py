"""A stand-in for lmms-eval that gives every task a score and tells how it was called."""

import json
from pathlib import Path
from typing import Any

from switchkd.runtime.lmms.benchmarks import LMMS_EVAL, PAPER

# What it does otherwise is said by environment variables, which it inherits.
_MAIN = """
import json, os, pathlib, signal, sys
options = dict(zip(sys.argv[1:-1], sys.argv[2:]))
task, out = options["--tasks"], pathlib.Path(options["--output_path"])
settings = dict(one.split("=") for one in options["--model_args"].split(","))
model = os.path.realpath(settings["variant"])
if task == os.environ.get("STAND_IN_ENDS_AT"):
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
if task == os.environ.get("STAND_IN_FAILS_AT"):
    sys.exit(f"RuntimeError: nothing works in {settings['variant']}")
(out / "submissions").mkdir(parents=True, exist_ok=True)
offline = [name for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if os.environ.get(name) == "1"]
with (out / "calls.jsonl").open("a") as calls:
    print(json.dumps({"options": options, "settings": settings, "model": model, "offline": offline}), file=calls)
for name in json.loads(FILES).get(task, []):
    (out / "submissions" / name.replace("*", "1")).write_text(model)
pathlib.Path(settings["counts"]).write_text(os.environ.get("STAND_IN_COUNTS", "{}"))
score = 0.5 if "/a/student" in model else 0.25
names = [name for name in json.loads(METRICS) if name != os.environ.get("STAND_IN_LACKS")]
(out / "x_results.json").write_text(json.dumps({"results": {task: {f"{name},none": score for name in names}}}))
"""


def install_stand_in(site: Path, monkeypatch: Any, version: str = LMMS_EVAL) -> None:
    """Puts it into a folder that this process and those it starts find packages in."""
    files = json.dumps({benchmark.task: [benchmark.file] for benchmark in PAPER if benchmark.file})
    metrics = json.dumps([benchmark.metric for benchmark in PAPER if benchmark.metric])
    package, facts = site / "lmms_eval", site / f"lmms_eval-{version}.dist-info"
    for folder in (package, facts):
        folder.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lmms_eval\nVersion: {version}\n")
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(_MAIN.replace("FILES", repr(files)).replace("METRICS", repr(metrics)))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def calls(out: Path) -> list[dict[str, Any]]:
    """How it was called for a task's folder, in order."""
    file = out / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
