"""The models that a server has, under all their names; the first is the usual one."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.token_bytes import TokenBytes
from switchkd.runtime.server.identity import Identity


@dataclass(frozen=True)
class Model:
    """One of them."""

    engine: Engine
    identity: Identity  # with its own name
    names: tuple[str, ...]  # that requests may use, its own first
    token_bytes: TokenBytes

    @classmethod
    def of(cls, engine: Engine, identity: Identity, names: tuple[str, ...]) -> Model:
        """An engine's."""
        return cls(engine, identity, names, TokenBytes(engine.prompt.tokenizer))


class Models:
    """Models by name.

    Args:
        models: at least one; no name is that of two.
    """

    def __init__(self, models: Iterable[Model]) -> None:
        self.all = tuple(models)
        self._by_name = {name: model for model in self.all for name in model.names}
        self.names = tuple(self._by_name)  # the usual one's own is the first

    @property
    def usual(self) -> Model:
        """What answers where a request names none."""
        return self.all[0]

    def __getitem__(self, name: str) -> Model:
        return self._by_name[name]


@contextlib.contextmanager
def open_models(variants: Sequence[tuple[str, Path]], aliases: Sequence[str] = (), **options: Any) -> Iterator[Models]:
    """Engines of several variants, all in memory, closed at the end. Names are settled before any is loaded.

    Args:
        variants: what a person typed for each, and its folder. Where two folders have one name, that is theirs.
        aliases: `ALIAS` for the first, or `NAME=ALIAS`.
        options: `open_engine`'s.

    Raises:
        SkdError: a name of two variants, an alias of none; and as `open_engine`.
    """
    identities = _told_apart([typed for typed, _ in variants], [Identity.of(folder) for _, folder in variants])
    names = _names([identity.name for identity in identities], aliases)
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(open_engine(folder, **options)) for _, folder in variants]
        yield Models(map(Model.of, engines, identities, names))


def _told_apart(typed: Sequence[str], identities: Sequence[Identity]) -> list[Identity]:
    count = Counter(identity.name for identity in identities)
    return [
        replace(identity, name=text) if count[identity.name] > 1 else identity
        for text, identity in zip(typed, identities, strict=True)
    ]


def _names(own: Sequence[str], aliases: Iterable[str]) -> list[tuple[str, ...]]:
    """Each model's names, its own first."""
    names: list[tuple[str, ...]] = [(name,) for name in own]
    for text in aliases:
        name, equals, alias = text.partition("=")
        if equals and name not in own:
            raise SkdError(f"--alias {text}: no variant is called {name}; there is {' and '.join(own)}.")
        place = own.index(name) if equals else 0
        names[place] = tuple(dict.fromkeys((*names[place], alias if equals else text)))
    twice = [name for name, count in Counter(name for each in names for name in each).items() if count > 1]
    if twice:
        raise SkdError(f"Two variants would be called {twice[0]}; name each once, and give each another --alias.")
    return names
