"""Retained texts for each forgotten document: a near one on another topic, one in another style, a world fact."""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from rank_bm25 import BM25Plus

from gunlearn.errors import DatasetNotFoundError, InvalidInputError
from gunlearn.llm.data.encoding import encode
from gunlearn.llm.data.record_shapes import canonical
from gunlearn.llm.data.records import read_records, text_of
from gunlearn.llm.data.target_tokens import folded, words_of

Records = Sequence[Mapping[str, Any]]
Entities = Callable[[str], Iterable[str]] | Collection[str]


@dataclass(frozen=True)
class RetainTriples:
    """Three records for each forgotten document, in the documents' order.

    `generic` is near in words but shares no entity, `style` is written in another style, `world` states world facts.
    """

    generic: tuple[Mapping[str, Any], ...]
    style: tuple[Mapping[str, Any], ...]
    world: tuple[Mapping[str, Any], ...]

    def rows(self, tokenizer: Any, **how: Any) -> dict[str, list[dict[str, Any]]]:
        """Return rows by part, for `UnlearnTrainer(paired=...)`; `how` are arguments of `encode`."""
        return {part: encode(getattr(self, part), tokenizer, **how) for part in ("generic", "style", "world")}


def retain_triples(
    forget: Any, generic: Any, world: Any, style: Any = None, *, entities: Entities, seed: int = 0
) -> RetainTriples:
    """Build the retain sets of `"OBLIVIATE" <https://arxiv.org/abs/2505.04416>`_ from the caller's texts.

    In the paper a language model writes the generic candidates and WikiText gives the world facts; here the caller does
    both.

    Args:
        forget: documents to forget: texts, records (see `read_records`), or a file of records or of a text per line
            (`.txt`).
        generic: candidates on other topics, in the same forms.
        world: texts that state facts of the world, in the same forms.
        style: texts of other genres, in the same forms; by default the generic ones in another order, as in the paper.
        entities: names that a generic document must not share: a list, or a function that finds them in a text.
        seed: seed of the order of `style` and `world`.

    Raises:
        InvalidInputError: an empty set, or no candidate without a document's entities.
        DatasetNotFoundError: no such file.
    """
    documents, candidates, facts = (as_records(source) for source in (forget, generic, world))
    draw = random.Random(seed)
    nearest = nearest_without_shared(list(map(text_of, documents)), list(map(text_of, candidates)), entities)
    chosen = [candidates[i] for i in nearest]
    others = draw.sample(chosen, len(chosen)) if style is None else _taken(as_records(style), len(documents), draw)
    return RetainTriples(tuple(chosen), tuple(others), tuple(_taken(facts, len(documents), draw)))


def nearest_without_shared(documents: Sequence[str], candidates: Sequence[str], entities: Entities) -> list[int]:
    """Return for each document the index of the nearest candidate by BM25 among those with none of its entities.

    Uses BM25+, in which a word that half of the candidates have still counts. `entities` are names (or one name), or a
    function that finds them in a text; case, possessives and hyphens do not count. Refuses documents without such a
    candidate.
    """
    if isinstance(entities, str):
        entities = (entities,)
    if not candidates:
        raise InvalidInputError("Expected candidates to choose from (got none)")
    words = [_plain(text).split() for text in candidates]
    spaced = [f" {' '.join(w)} " for w in words]
    index = BM25Plus([w or [""] for w in words])  # it divides by the documents' lengths
    chosen, without = [], []
    for number, document in enumerate(documents, 1):
        own = f" {_plain(document)} "
        found = entities(document) if callable(entities) else [e for e in entities if f" {_plain(e)} " in own]
        names = [f" {name} " for name in map(_plain, found) if name]
        allowed = [i for i, text in enumerate(spaced) if not any(name in text for name in names)]
        if not allowed:
            without.append(number)
            continue
        scores = index.get_scores(own.split())
        chosen.append(max(allowed, key=lambda i: scores[i]))
    if without:
        raise InvalidInputError(f"Expected a candidate without its entities (got none for documents {without[:10]})")
    return chosen


def as_records(source: Any) -> Records:
    """Return records from texts, records, or a file of either; raise as `retain_triples`."""
    if isinstance(source, str | PathLike):
        path = Path(source)
        if path.suffix != ".txt":
            return read_records(path)
        if not path.is_file():
            raise DatasetNotFoundError(f"Expected a file of texts (got {path}, which is no file)")
        source = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    records = [{"text": value} if isinstance(value, str) else value for value in source]
    if not records:
        raise InvalidInputError("Expected at least one text (got none)")
    return [canonical(record, f"row {i}") for i, record in enumerate(records, 1)]


def _taken(records: Records, count: int, draw: random.Random) -> list[Mapping[str, Any]]:
    """Draw `count` records, all equally often (give or take one)."""
    out: list[Mapping[str, Any]] = []
    while len(out) < count:
        out.extend(draw.sample(list(records), min(len(records), count - len(out))))
    return out


def _plain(text: str) -> str:
    return " ".join(folded(word) for word in words_of(text))
