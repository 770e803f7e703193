"""How fast the built-in task is made: python benchmarks/roadscenes.py [PICTURES] [SIZE]"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from switchkd.data.roadscenes import draw, scenes, write_roadscenes


def main() -> None:
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    some = list(scenes("train", 0, min(pictures, 500)))
    start = time.perf_counter()
    for scene in some:
        draw(scene, size)
    print(f"drawing: {len(some) / (time.perf_counter() - start):.0f} pictures/s, one core, {size} x {size}")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary = write_roadscenes(Path(folder) / "roadscenes", size=size, train=pictures)
        seconds = time.perf_counter() - start
    records = sum(summary["records"].values())
    print(f"everything: {pictures} training pictures, {records} records, {seconds:.1f} s")
    print(f"blind score: {summary['blind']['overall']:.1%}")


if __name__ == "__main__":
    main()
