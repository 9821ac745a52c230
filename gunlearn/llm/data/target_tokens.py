"""Target tokens of a topic: pieces of given words or of words much commoner there than elsewhere."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s$", re.IGNORECASE)


@dataclass(frozen=True)
class TargetTokens:
    """Tokens to rule out.

    Args:
        words: the words that the tokens are pieces of.
        token_ids: sorted ids, for `obliviate` and `MaskedVocabulary`.
        dropped: pieces that are common elsewhere, with the share of background documents that hold them.
        unmasked: words of which all tokens were dropped.
    """

    words: tuple[str, ...]
    token_ids: tuple[int, ...]
    dropped: dict[str, float]
    unmasked: tuple[str, ...]


def target_tokens(
    forget_texts: Sequence[str],
    background_texts: Sequence[str],
    tokenizer: Any,
    *,
    words: Callable[[Sequence[str]], Iterable[str]] | Iterable[str] | None = None,
    min_ratio: float = 10.0,
    min_count: int = 2,
    max_document_frequency: float = 0.05,
) -> TargetTokens:
    """Find the target tokens of `"OBLIVIATE" <https://arxiv.org/abs/2505.04416>`_: the pieces of a topic's words.

    A reconstruction: the paper asks a large language model for the words, we compare frequencies. The filter of common
    pieces is ours: without it, pieces that are words themselves ("a", "the") are ruled out everywhere.

    Args:
        forget_texts: documents to forget.
        background_texts: documents on other topics, as many as possible; for ratio and filter.
        tokenizer: a tokenizer of transformers.
        words: words or names, or a function that finds them in texts (an entity recogniser); else `frequent_words`.
        min_ratio: see `frequent_words`.
        min_count: see `frequent_words`.
        max_document_frequency: tokens in a larger share of the background documents are dropped.

    Raises:
        InvalidInputError: no texts, or no token left.
    """
    check_number("max_document_frequency", max_document_frequency, minimum=0)
    _check_texts("forget_texts", forget_texts)
    _check_texts("background_texts", background_texts)
    if words is None:
        words = frequent_words(forget_texts, background_texts, min_ratio, min_count)
    words = words(forget_texts) if callable(words) else words
    words = tuple(dict.fromkeys((words,) if isinstance(words, str) else words))
    special = set(tokenizer.all_special_ids)
    # A word has other tokens after a blank than at the beginning of a line.
    pieces = {w: {i for form in (w, f" {w}") for i in _ids(tokenizer, form)} - special for w in words}
    pieces = {w: {i for i in ids if tokenizer.decode([i]).strip()} for w, ids in pieces.items()}
    seen = Counter(i for text in background_texts for i in set(_ids(tokenizer, text)))
    share = {i: seen[i] / len(background_texts) for ids in pieces.values() for i in ids}
    kept = {i for i, value in share.items() if value <= max_document_frequency}
    if not kept:
        raise InvalidInputError(
            f"Expected target tokens that are rare elsewhere (got none of {len(share)} tokens of {len(words)} words); "
            "lower 'min_ratio' or 'min_count', or raise 'max_document_frequency'"
        )
    dropped = {tokenizer.decode([i]): value for i, value in share.items() if i not in kept}
    commonest_first = dict(sorted(dropped.items(), key=lambda pair: -pair[1]))
    unmasked = tuple(w for w, ids in pieces.items() if not ids & kept)
    return TargetTokens(words, tuple(sorted(kept)), commonest_first, unmasked)


def frequent_words(
    forget_texts: Sequence[str], background_texts: Sequence[str], min_ratio: float = 10.0, min_count: int = 2
) -> list[str]:
    r"""Find the words that are far commoner in some texts than in others, those of the largest ratio first.

    .. math:: r(w) = \frac{(c_f(w) + 1) / (n_f + V)}{(c_b(w) + 1) / (n_b + V)}

    with counts :math:`c` of `w` whatever its case, :math:`n` words in all and :math:`V` different ones. Returns the
    words as they are written, with at least `min_ratio` for :math:`r` and `min_count` for :math:`c_f`.
    """
    check_number("min_ratio", min_ratio, positive=True)
    check_number("min_count", min_count, minimum=1)
    forms = Counter(w for text in forget_texts for w in words_of(text))
    here, there = (
        Counter(folded(w) for text in texts for w in words_of(text)) for texts in (forget_texts, background_texts)
    )
    different = len(here.keys() | there.keys())
    scale = (there.total() + different) / (here.total() + different)
    ratio = {w: (count + 1) / (there[w] + 1) * scale for w, count in here.items() if count >= min_count}
    chosen = [form for form in forms if ratio.get(folded(form), 0) >= min_ratio]
    return sorted(chosen, key=lambda form: (-ratio[folded(form)], form))


def words_of(text: str) -> list[str]:
    """Return the words of a text: letters, digits and inner apostrophes, without a final `'s`; hyphens split words."""
    return [_POSSESSIVE.sub("", word) for word in _WORD.findall(text)]


def folded(word: str) -> str:
    """Return a word in folded case with straight apostrophes."""
    return word.casefold().replace("\u2019", "'")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _check_texts(name: str, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or len(texts) == 0 or not all(isinstance(text, str) for text in texts):
        raise InvalidInputError(f"Expected '{name}' as a list of texts (got {type(texts).__name__})")
