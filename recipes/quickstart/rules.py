"""Labeling functions for the sample shop. Each looks at one thing, and abstains where that says nothing.

A row is a mapping of the task's inputs to text. They are written for any shop's listings in English and Korean; what
they are worth on this one is in docs/labeling_functions.md.
"""

import re

from distill import ABSTAIN, labeling_function

WORD = re.compile(r"[가-힣]+|[^\W\d_가-힣]+|\d+")
# Little words of queries, that a listing may lack.
FILLER = {"for", "with", "and", "the", "a", "an", "to", "of", "in", "on", "용"}
ADD_ON = {
    *("case pouch charger cable adapter strap mount holder stand stands rack liner refill replacement cleaner polish".split()),
    *("spare part parts kit bag bags hook hooks clip clips grip grips lid lids remote drops spray brush organizer".split()),
    *("케이스 파우치 충전기 케이블 어댑터 스트랩 거치대 걸이 리필 교체 세척 청소 부품 보관함 받침대 클리너 브러시 수납".split()),
}
MADE_FOR = re.compile(r"\b(?:for|fits|compatible with|replacement)\b|전용|호환|교체용")
NEGATED = re.compile(r"\b(?:without|no|not|non)[ -](\w{3,})|\b(\w{3,})[ -]?free\b|([가-힣]{2,}) ?(?:없는|제외)")
MODEL = re.compile(r"\b(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{2,6}\b")
AUDIENCES = {
    "women": {"women", "womens", "ladies", "woman", "여성", "여자"},
    "men": {"men", "mens", "man", "남성", "남자"},
    "children": {"kids", "kid", "toddler", "toddlers", "baby", "boys", "girls", "아동", "유아", "아기", "키즈"},
    "animals": {"dog", "dogs", "cat", "cats", "puppy", "pet", "pets", "강아지", "고양이", "반려동물"},
}


def words(text):
    """Words without case and the s of a plural."""
    found = WORD.findall(text.casefold().replace("'s", "s"))
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found]


def there(word, listing):
    """Whether a listing has a word; Korean words also inside others, since they are written together."""
    return word in words(listing) or (word >= "가" and word in listing.replace(" ", ""))


def share_there(query, listing):
    """The share of the query's words that a listing has."""
    wanted = [word for word in words(query) if word not in FILLER]
    return sum(there(word, listing) for word in wanted) / len(wanted) if wanted else None


@labeling_function(family="words")
def title_has_it_all(row):
    """Every word of the query stands in the title."""
    share = share_there(row["query"], row["title"])
    return "exact" if share == 1.0 else ABSTAIN


@labeling_function(family="words")
def hardly_a_word(row):
    """At most one word in five of the query stands anywhere in the listing."""
    listing = " ".join(row[name] for name in ("title", "brand", "category", "attributes", "description"))
    share = share_there(row["query"], listing)
    return {"irrelevant": 0.6, "substitute": 0.4} if share is not None and share <= 0.2 else ABSTAIN


@labeling_function(family="kind")
def add_on(row):
    """The title names a part or an add-on, which the query does not."""
    wanted, title = {*words(row["query"])}, row["title"]
    named = [word for word in ADD_ON if there(word.removesuffix("s"), title)]
    asked = any(there(word.removesuffix("s"), row["query"]) for word in ADD_ON)
    return "complement" if named and not asked and wanted & {*words(title)} else ABSTAIN


@labeling_function(family="kind")
def made_for_it(row):
    """The title says that it is for something, and what it is for is what the query names."""
    title = row["title"].casefold()
    marker = MADE_FOR.search(title)
    if not marker or MADE_FOR.search(row["query"].casefold()):
        return ABSTAIN
    korean = marker.group() >= "가"  # 케이스가 '… 전용' 뒤에 온다: in Korean it stands before the marker
    owner = title[: marker.start()] if korean else title[marker.end() :]
    share = share_there(row["query"], owner)
    return "complement" if share is not None and share >= 0.6 else ABSTAIN


@labeling_function(family="constraints")
def excluded_feature(row):
    """The query excludes something that the title or the attributes show."""
    match = NEGATED.search(row["query"].casefold())
    if not match:
        return ABSTAIN
    feature = next(group for group in match.groups() if group)
    listing = f"{row['title']} {row['attributes']}".casefold()
    excluded = NEGATED.search(listing)
    shown = there(words(feature)[0], listing) and not (excluded and feature in excluded.group())
    return "substitute" if shown else ABSTAIN


@labeling_function(family="constraints")
def other_model(row):
    """The query names a model (p5, m40, 62xl), and the listing only others."""
    wanted = {*MODEL.findall(row["query"].casefold())}
    listed = {*MODEL.findall(f"{row['title']} {row['attributes']}".casefold())}
    return {"irrelevant": 0.5, "substitute": 0.5} if wanted and listed and not wanted & listed else ABSTAIN


@labeling_function(family="audience")
def other_audience(row):
    """The query is for women, men, children or animals, and the title for others."""
    wanted = {name for name, said in AUDIENCES.items() if any(there(word, row["query"].casefold()) for word in said)}
    listed = {name for name, said in AUDIENCES.items() if any(there(word, row["title"].casefold()) for word in said)}
    return "irrelevant" if wanted and listed and not wanted & listed else ABSTAIN
