"""Labeling functions for the sample shop. Each looks at one thing, and abstains where that says nothing.

A row is a mapping of the task's inputs to text. What each is worth is in docs/labeling_functions.md: they were written
with an eye on the rows of splits train and audit, and on none of split test.
"""

import re

from distill import ABSTAIN, labeling_function

WORD = re.compile(r"[가-힣]+|[^\W\d_가-힣]+|\d+")
# Little words of queries, that a listing may lack.
FILLER = {"for", "with", "and", "the", "a", "an", "to", "of", "in", "on", "용"}
ADD_ON = {
    *("bag", "brush", "cable", "case", "charger", "cleaner", "clip", "cover", "drop", "grip", "hook", "kit", "lid"),
    *("liner", "mat", "mount", "pad", "part", "polish", "pouch", "rack", "refill", "remote", "replacement", "rod"),
    *(
        "spray",
        "stand",
        "strap",
        "tool",
        "거치대",
        "걸이",
        "교체",
        "리필",
        "보관함",
        "브러시",
        "세정",
        "세척",
        "스트랩",
    ),
    *("어댑터", "충전기", "케이블", "케이스", "클리너", "파우치", "하우징"),
}
# What comes with a product stands behind one of these, and its own name before.
EXTRAS = re.compile(r"[,(+;–]| - | with | w/ | for | fits |포함|세트|증정")
MADE_FOR = re.compile(r"\bfor\b|\bfits\b|\bcompatible with\b|전용|호환|교체용")
NEGATED = re.compile(r"\b(?:without|no|not|non)[ -](\w{3,})|\b(\w{3,})[ -]?free\b|([가-힣]{2,}) ?(?:없는|제외)")
MODEL = re.compile(r"\b(?:[a-z]{1,4}\d{1,4}|\d{2,4}xl)\b")  # p5, m40, jp420, 62xl; not 28cm
AUDIENCES = {
    "women": {"women", "womens", "ladies", "woman", "여성", "여자"},
    "men": {"men", "mens", "man", "남성", "남자"},
    "children": {"kid", "toddler", "baby", "boy", "girl", "아동", "유아", "아기", "키즈"},
    "animals": {"dog", "cat", "puppy", "pet", "강아지", "고양이", "반려동물"},
}


def words(text):
    """Words without case and the s of a plural."""
    found = WORD.findall(text.casefold().replace("'s", "s"))
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found]


def there(word, listing):
    """Whether a listing has a word; a Korean one also inside others, since they are written together."""
    return word in words(listing) or (word >= "가" and word in listing.replace(" ", ""))


def share_there(query, listing):
    """The share of the query's words that a listing has."""
    wanted = [word for word in words(query) if word not in FILLER]
    return sum(there(word, listing) for word in wanted) / len(wanted) if wanted else 0.0


def heads(title):
    """Words that say what is sold: the last before what it comes with; in Korean any before that."""
    own = words(EXTRAS.split(title.casefold())[0])
    return {*own[-1:], *(word for word in own if word >= "가")}


@labeling_function(family="words")
def title_has_it_all(row):
    """Every word of the query stands in the title, and no part or add-on is what is sold."""
    if heads(row["title"]) & (ADD_ON - {*words(row["query"])}):
        return ABSTAIN
    return "exact" if share_there(row["query"], row["title"]) == 1.0 else ABSTAIN


@labeling_function(family="kind")
def add_on(row):
    """What is sold is a part or an add-on, the query names none, and both share a word."""
    named = heads(row["title"]) & ADD_ON
    asked = [word for word in ADD_ON if there(word, row["query"].casefold())]
    return "complement" if named and not asked and share_there(row["query"], row["title"]) > 0 else ABSTAIN


@labeling_function(family="kind")
def made_for_it(row):
    """The title says that it is for something: the query names that, and nothing of what stands before."""
    title = row["title"].casefold()
    marker = MADE_FOR.search(title)
    if not marker or MADE_FOR.search(row["query"].casefold()):
        return ABSTAIN
    before, after = title[: marker.start()], title[marker.end() :]
    owner, thing = (before, after) if marker.group() >= "가" else (after, before)
    return "complement" if share_there(row["query"], owner) >= 0.4 > 3 * share_there(row["query"], thing) else ABSTAIN


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
    return {"irrelevant": 0.7, "substitute": 0.3} if wanted and listed and not wanted & listed else ABSTAIN


@labeling_function(family="audience")
def other_audience(row):
    """The query is for women, men, children or animals, and the title for others."""
    wanted = {name for name, said in AUDIENCES.items() if any(there(word, row["query"].casefold()) for word in said)}
    listed = {name for name, said in AUDIENCES.items() if any(there(word, row["title"].casefold()) for word in said)}
    return {"substitute": 0.6, "irrelevant": 0.4} if wanted and listed and not wanted & listed else ABSTAIN
