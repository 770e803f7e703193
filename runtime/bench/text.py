"""The package's page of text in a bench: the reference reads it, then the others, and each is compared with what it read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from switchkd.prompt import ChatPrompt
from switchkd.runtime.bench.measurement import Bench, Measurement
from switchkd.runtime.bench.reading import Page, Readings, TextReference
from switchkd.runtime.bench.session import Session

Sessions = dict[str, Session]


class TextRounds:
    """All readings of one run. The reference's distributions lie in files until the end: at a vocabulary of 152,000, 0.5 GB.

    Args:
        bench: takes what comes out.
        folder: for the files.
        marking: notes a variant's error and ends its session; see `Runner`.
        progress: is told how far it is.
    """

    def __init__(
        self,
        bench: Bench,
        folder: Path,
        marking: Callable[[Measurement, Sessions], AbstractContextManager[None]],
        progress: Callable[[str, float], None],
    ) -> None:
        self._bench, self._folder = bench, folder
        self._marking, self._progress = marking, progress

    def read(self, sessions: Sessions, tokenizers: Mapping[str, str]) -> None:
        """Everything that this group of variants can read; the reference is in the first group.

        Args:
            sessions: of the variants that are open.
            tokenizers: variant → hash of its tokenizer; those with another than the reference's aren't compared.
        """
        bench = self._bench
        if bench.settings.divergence == 0 or not bench.reference:
            return
        reference = bench.measurements[bench.reference]
        if reference.name in sessions:
            with self._marking(reference, sessions):
                bench.text = self._refer(sessions[reference.name], reference.folder)
        if bench.text is None:
            return
        for name in [name for name in sessions if name != reference.name]:
            if tokenizers[name] == tokenizers[reference.name]:
                each = bench.measurements[name]
                with self._marking(each, sessions):
                    each.readings = self._compare(sessions[name], bench.text)

    def _refer(self, session: Session, folder: Path) -> TextReference:
        page = Page.load(ChatPrompt.load(folder), context=session.opened["context"])
        surprises = []
        for place, ids in enumerate(page.passages):
            self._progress("reading the text", place / len(page.passages))
            surprises.append(session.call("read", ids=ids, file=str(self._file(place)))["surprises"])
        return TextReference(page, surprises)

    def _compare(self, session: Session, text: TextReference) -> Readings:
        readings = Readings(text)
        passages = text.page.passages if text.can_read else []
        for place, ids in enumerate(passages):
            self._progress(f"{session.name}: reading the text", place / len(passages))
            readings.add(session.call("compare_reading", ids=ids, file=str(self._file(place))))
        return readings

    def _file(self, place: int) -> Path:
        return self._folder / f"text-{place}.npy"
