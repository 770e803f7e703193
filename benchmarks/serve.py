"""A server under a thousand requests with pictures: its memory request by request, its times, what it refuses meanwhile.

    python benchmarks/serve.py student-onnx-q8 --out docs/results/serve.md --plot docs/results/serve.png

`skd serve` runs as a process of its own. Pictures are noise of 1280 × 720 pixels as JPEG, another one each time. Every tenth
request is followed by one that is refused (too large, torn, malformed, a wrong field) or whose client goes away.
Memory is the process's resident set as /proc tells it, and the part of it that is its own (private, not shared with files).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openai
from PIL import Image

from switchkd.runtime.bench.machine import machine_facts

PACKAGES = ("uvicorn", "starlette", "openai")
WIDTH, HEIGHT = 1280, 720
EVERY = 10  # requests between two that go wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and times of a served variant, as Markdown.")
    parser.add_argument("variant")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=8, help="longest answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="Markdown file; default: the terminal")
    parser.add_argument("--plot", type=Path, help="picture of the memory")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with serving(options.variant, "--threads", str(options.threads)) as (process, url):
        memory, seconds, refused = measure(process.pid, url, options.requests, options.tokens)
    if options.plot:
        draw(memory, options.plot)
    lines = [*report(memory, seconds, refused), *conditions(options, load)]
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text)


@contextmanager
def serving(variant: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`skd serve` on a free port: (process, base URL). Raises RuntimeError where it doesn't end well."""
    command = [sys.executable, "-m", "switchkd.cli", "serve", variant, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, re.findall(r"http://\S+", line)[0]
        finally:
            process.send_signal(signal.SIGTERM)
    if process.returncode:
        raise RuntimeError(f"the server ended with {process.returncode}")


def measure(pid: int, url: str, requests: int, tokens: int) -> tuple[list[tuple[float, float]], list[float], Counter]:
    """(resident and private MB after each request, seconds of each, statuses of those that went wrong)."""
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
    model = next(iter(client.models.list())).id
    memory, seconds = [memory_of(pid)], list[float]()
    statuses: Counter[str] = Counter()
    for number in range(requests):
        messages = about(jpeg(number), f"how many cars are there in picture {number} ?")
        start = time.perf_counter()
        if number % 2:
            client.chat.completions.create(model=model, messages=messages, max_tokens=tokens)
        else:
            list(client.chat.completions.create(model=model, messages=messages, max_tokens=tokens, stream=True))
        seconds.append(time.perf_counter() - start)
        if number % EVERY == EVERY - 1:
            statuses[go_wrong(client, url, model, number // EVERY)] += 1
        memory.append(memory_of(pid))
    return memory, seconds, statuses


def go_wrong(client: openai.OpenAI, url: str, model: str, kind: int) -> str:
    """One request that isn't answered; its status."""
    good = jpeg(kind)
    head, _, data = good.partition(",")
    wrong: tuple[dict[str, Any], ...] = (
        {"messages": about("data:image/jpeg;base64," + "A" * 21_000_000, "too large")},
        {"messages": about(f"{head},{data[: len(data) // 8 * 4]}", "torn")},
        {"messages": about("http://127.0.0.1/a.jpg", "somewhere else")},
        {"messages": about(good, "warm"), "temperature": 1},
        {"messages": about(good, "a " * 100_000)},
    )
    if kind % (len(wrong) + 1) == len(wrong):
        leave(url, model, good)
        return "client gone"
    try:
        client.chat.completions.create(**{"model": model, **wrong[kind % (len(wrong) + 1)]})
    except openai.APIStatusError as error:
        return str(error.status_code)
    raise RuntimeError("a request that is wrong was answered")


def leave(url: str, model: str, picture: str) -> None:
    """Asks for an answer and doesn't wait for it."""
    host, port = re.findall(r"//(.*):(\d+)/", url)[0]
    body = json.dumps({"model": model, "messages": about(picture, "never mind")})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with contextlib.closing(socket.create_connection((host, int(port)))) as connection:
        connection.sendall(f"{head}\r\n\r\n{body}".encode())


def about(url: str, text: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def jpeg(seed: int) -> str:
    """A data URL of about 100 kB."""
    cells = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def memory_of(pid: int) -> tuple[float, float]:
    """A process's resident and private memory, MB."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE))
    private = int(fields["Private_Clean"]) + int(fields["Private_Dirty"])
    return int(fields["Rss"]) * 1024 / 1e6, private * 1024 / 1e6


def report(memory: list[tuple[float, float]], seconds: list[float], refused: Counter) -> list[str]:
    """Markdown lines."""
    marks = sorted({0, 1, 10, 100, *range(200, len(memory), 200), len(memory) - 1})
    lines = ["| after requests | resident, MB | private, MB |", "|---:|---:|---:|"]
    lines += [f"| {mark:,} | {memory[mark][0]:.1f} | {memory[mark][1]:.1f} |" for mark in marks if mark < len(memory)]
    tenth = max(1, len(seconds) // 10)
    early, late = (statistics.median(m[0] for m in part) for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    answers = ", ".join(f"{count} × {status}" for status, count in sorted(refused.items()))
    return [
        *lines,
        "",
        f"- Growth of the median from the second tenth of the requests to the last: {late - early:+.1f} MB resident",
        f"- {len(seconds):,} answered; median {statistics.median(seconds) * 1e3:,.0f} ms, longest {max(seconds):,.2f} s",
        f"- Between them: {answers}",
    ]


def conditions(options: argparse.Namespace, load: float) -> list[str]:
    """What was measured how, on what."""
    facts = machine_facts()
    versions = {**facts["versions"], **{name: version(name) for name in PACKAGES}}
    return [
        f"- Processor: {facts['cpu']}, {options.threads} threads; load {load:.1f} before, {os.getloadavg()[0]:.1f} after",
        f"- Versions: {', '.join(f'{name} {number}' for name, number in versions.items() if number)}",
        f"- Command: `python {shlex.join(sys.argv)}`",
    ]


def draw(memory: list[tuple[float, float]], path: Path) -> None:
    """Memory over requests."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for index, name in enumerate(("resident", "private")):
        axes.plot([point[index] for point in memory], label=name)
    axes.set(xlabel="requests with a picture", ylabel="memory of the server, MB", ylim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
