"""Pieces and files by their words: BM25 over texts, and over the names of files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from castor.index.store import Store
from castor.index.words import phrase, terms

# Words that make a question of it, or hold it together: a text that has them tells nothing of what is asked about.
# None that names a thing in another of these languages, such as "war" or "die".
EMPTY = frozenset(
    terms(
        """
        a an the of in on at to for from with by and or is are were be been do does did has have had could would should
        what which who whom whose when where why how it its this that these those there i my me we our you your
        der ein eine und oder ist sind wann wo wie wer el las una del en y o es qué cuándo dónde cómo
        les du et ou sont quand où comment
        """
    )
)
COMMON_SHARE, COMMON_FROM = 0.2, 50  # a word in more than this share of so many texts says nothing of one


def telling_terms(store: Store, question: str) -> list[str]:
    """The words of a question that tell what it is about; all of them if none does.

    Left out are words that only hold a sentence together, and those that are everywhere in this index.
    """
    asked = terms(question)
    found = [term for term in asked if term not in EMPTY] or asked
    num_texts = _num_texts(store)
    if num_texts < COMMON_FROM:
        return found
    rare = [term for term in found if _texts_with(store, term) <= COMMON_SHARE * num_texts]
    return rare or found


def _num_texts(store: Store) -> int:
    (count,) = store.rows("SELECT count(*) FROM pieces WHERE text != ''")[0]
    return count


def _texts_with(store: Store, term: str) -> int:
    (count,) = store.rows("SELECT count(*) FROM words WHERE words MATCH ?", (phrase(term),))[0]
    return count


def by_words(store: Store, question: Sequence[str], count: int, allowed: Sequence[int] | None) -> list[int]:
    """Pieces that have any of the words, best first, of those allowed."""
    if not question:
        return []
    chosen = "" if allowed is None else "AND rowid IN (SELECT value FROM json_each(:allowed)) "
    query = f"SELECT rowid FROM words WHERE words MATCH :match {chosen}ORDER BY rank LIMIT :count"
    values = {"match": " OR ".join(map(phrase, question)), "count": count}
    if allowed is not None:
        values["allowed"] = json.dumps([int(piece) for piece in allowed])
    return [piece for (piece,) in store.rows(query, values)]


def shares_of(store: Store, question: Sequence[str], found: Sequence[int]) -> dict[int, float]:
    """Of each piece found, the share of the question's words that it has, each weighed by its rareness as in BM25."""
    num_texts, whole = _num_texts(store), 0.0
    shares = dict.fromkeys(found, 0.0)
    query = "SELECT rowid FROM words WHERE words MATCH :match AND rowid IN (SELECT value FROM json_each(:found))"
    for term in question:
        count = max(1, min(num_texts, _texts_with(store, term)))  # a word that is nowhere weighs as one that is once
        weight = math.log1p((num_texts - count + 0.5) / (count + 0.5))
        whole += weight
        for (piece,) in store.rows(query, {"match": phrase(term), "found": json.dumps(list(shares))}):
            shares[piece] += weight
    return {piece: share / whole for piece, share in shares.items()} if whole else {}


def by_name(store: Store, question: Sequence[str], count: int) -> list[int]:
    """Contents of files whose path has all of the words, best first."""
    if not question:
        return []
    query = (
        "SELECT files.content FROM names JOIN files ON files.id = names.rowid "
        "WHERE names MATCH :match AND files.content IS NOT NULL ORDER BY names.rank LIMIT :count"
    )
    match = " AND ".join(map(phrase, question))
    return [content for (content,) in store.rows(query, {"match": match, "count": count})]
