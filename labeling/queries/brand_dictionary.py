"""A brand tagger from a list of brands: a labeling function for the task ``brand``, without labels.

Names are looked up by their letters alone, so that spaces, hyphens, apostrophes and ``&`` or ``and`` do not matter
(``Black & Decker``, ``black decker``, ``blackdecker``); the longest name wins, from left to right. Many brands are
words (``apple``, ``target``, ``gap``): how often a name in a title is the brand of its product tells how far to trust
it, and an untrustworthy one is tagged only where the products that the query retrieves are of that brand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from distill.labeling.merging.span_votes import Span
from distill.labeling.queries.query_words import Word, words
from distill.labeling.queries.transliteration import sound_key

_NO_BRAND = frozenset(["generic", "unknown", "unbranded", "nobrand", "na", "none", "other", "various"])
_JOINERS = frozenset(["and", "n", "и"])
_FEWEST_JOINED = 6
_FEWEST_SOUND = 5
_LATIN = re.compile(r"[\W\da-z]*")
_PRIOR_TITLES = 1.0


class BrandSpan(NamedTuple):
    """A brand in a query.

    Attributes:
        start: First character.
        end: Character after the last.
        brand: Its name in the list.
        trust: How likely the words are the brand: its share of the titles that hold them, or of the products
            retrieved, whichever is higher; 1 where neither is known.
    """

    start: int
    end: int
    brand: str
    trust: float


class BrandDictionary:
    """Finds brands in queries.

    Args:
        brands: Names. Placeholders such as ``Generic`` and names of one letter are left out; of names that differ in
            case or signs alone the first is kept.
        aliases: Other ways to write a name, by alias: ``{"hp": "Hewlett-Packard", "삼성": "Samsung"}``.
        transliterate: Also take a word in another script for a name that sounds alike (:func:`sound_key`), where it
            is the only one. For a shop's own brands; with a list from elsewhere most such matches are chance.
        trusted: From which trust on a name is tagged without asking what the query retrieves. Names that fit others'
            products (``hp`` on ink) have little trust and are brands all the same: 0.2 lost none of them on 3,000
            queries of QueryNER's training part, and 0.5 one in nine.
        retrieved_share: Which share of the products retrieved has to be of a brand for a name that is not trusted.
    """

    def __init__(
        self,
        brands: Iterable[str],
        *,
        aliases: Mapping[str, str] | None = None,
        transliterate: bool = False,
        trusted: float = 0.2,
        retrieved_share: float = 0.2,
    ) -> None:
        self.trusted = trusted
        self.retrieved_share = retrieved_share
        self.trust: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self._word_counts: dict[str, set[int]] = {}
        for name, brand in [*((brand, brand) for brand in brands), *(aliases or {}).items()]:
            self._add(name, self._names.get(_key(words(brand)), brand))
        self._longest = max((max(counts) for counts in self._word_counts.values()), default=0) + 1
        self._sounds = _unique_sounds(self._names) if transliterate else {}

    @classmethod
    def from_products(
        cls, titles: Sequence[str], brands: Sequence[str], *, aliases: Mapping[str, str] | None = None
    ) -> BrandDictionary:
        """The brands of a catalogue, commonest first, with the trust in each learned from its titles.

        Args:
            titles: Of the products.
            brands: Of the same products; empty where one has none.
            aliases: Further names, each with the brand that it means.
        """
        names = (brand for brand, _ in Counter(brand for brand in brands if brand).most_common())
        dictionary = cls(names, aliases=aliases)
        dictionary.learn_trust(titles, brands)
        return dictionary

    def __len__(self) -> int:
        return len(self.names)

    @property
    def names(self) -> list[str]:
        """The brands, in the order given."""
        return list(dict.fromkeys(self._names.values()))

    def learn_trust(self, titles: Sequence[str], brands: Sequence[str]) -> None:
        """Learns how far each name can be trusted from titles and their products' brands.

        ``trust = (titles of the brand that hold its name + 1) / (titles that hold it + 1)``; products without a brand
        are left out, since they may be anybody's.
        """
        held: Counter[str] = Counter()
        own: Counter[str] = Counter()
        for title, brand in zip(titles, brands, strict=True):
            if not brand:
                continue
            canonical = self._names.get(_key(words(brand)))
            for key in {key for _, _, key in self._found(title)}:
                held[key] += 1
                own[key] += self._names[key] == canonical
        self.trust = {key: (own[key] + _PRIOR_TITLES) / (count + _PRIOR_TITLES) for key, count in held.items()}

    def tag(self, query: str, retrieved: Mapping[str, float] | None = None) -> list[BrandSpan]:
        """The brands of a query, left to right.

        Args:
            query: The text.
            retrieved: Share by brand of the products that it retrieves
                (:meth:`~distill.labeling.queries.catalogue.Nearby.brand_shares`); without it, names that are not
                trusted are left out.
        """
        shares: dict[str, float] = {}
        for name, share in (retrieved or {}).items():
            brand = self._names.get(_key(words(name)), name)
            shares[brand] = shares.get(brand, 0.0) + share
        spans = []
        for start, end, key in self._found(query):
            brand, trust = self._names[key], self.trust.get(key, 1.0)
            found = shares.get(brand, 0.0)
            if trust >= self.trusted or found >= self.retrieved_share:
                spans.append(BrandSpan(start, end, brand, max(trust, found)))
        return spans

    def spans(self, query: str) -> list[tuple[int, int]]:
        """Where trusted brands stand, for :func:`~distill.labeling.queries.protected_spans.protected_spans`."""
        return [(span.start, span.end) for span in self.tag(query)]

    def __call__(self, query: str, retrieved: Mapping[str, float] | None = None) -> list[Span]:
        """The answer to the task: spans labelled ``brand``."""
        return [Span(span.start, span.end, "brand") for span in self.tag(query, retrieved)]

    def _add(self, name: str, brand: str) -> None:
        found = words(name)
        key = _key(found)
        if len(key) > 1 and key not in _NO_BRAND and not key.isdigit():
            self._names.setdefault(key, brand)
            self._word_counts.setdefault(key, set()).add(len(found))

    def _found(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Names in a text: first and last character, and key; none overlaps another."""
        found, at = words(text), 0
        while at < len(found):
            for width in range(min(self._longest, len(found) - at), 0, -1):
                if (key := self._match(found[at : at + width])) is not None:
                    yield found[at].start, found[at + width - 1].end, key
                    at += width
                    break
            else:
                at += 1

    def _match(self, found: Sequence[Word]) -> str | None:
        if found[0].text in _JOINERS or found[-1].text in _JOINERS:
            return None
        key = _key(found)
        if key in self._names:
            # Short names are not pieced together: "no ok" is no nook.
            whole = len(found) in self._word_counts[key] or len(key) >= _FEWEST_JOINED
            return key if whole else None
        if self._sounds and (sound := _foreign_sound(found)):
            return self._sounds.get(sound)
        return None


def _key(found: Sequence[Word]) -> str:
    return "".join(word.text.replace("'", "") for word in found if word.text not in _JOINERS or len(found) == 1)


def _foreign_sound(found: Sequence[Word]) -> str | None:
    """The sound of words in another script than Latin, where it is long enough to mean something."""
    text = "".join(word.text for word in found)
    if _LATIN.fullmatch(text):
        return None
    sound = sound_key(text)
    return sound if len(sound) >= _FEWEST_SOUND else None


def _unique_sounds(names: Mapping[str, str]) -> dict[str, str]:
    """Keys of Latin names by sound, where all names of that sound are one brand."""
    by_sound: dict[str, list[str]] = {}
    for key in names:
        if _LATIN.fullmatch(key) and len(sound := sound_key(key)) >= _FEWEST_SOUND:
            by_sound.setdefault(sound, []).append(key)
    return {sound: keys[0] for sound, keys in by_sound.items() if len({names[key] for key in keys}) == 1}
