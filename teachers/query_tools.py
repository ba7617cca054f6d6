"""Teachers that answer a query task from the catalogue: a corrector, a brand dictionary, votes of what is found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from distill.labeling.category_tree import SEPARATOR
from distill.labeling.errors import DataError
from distill.labeling.labeling_function import Stated
from distill.labeling.queries.brand_dictionary import BrandDictionary
from distill.labeling.queries.catalogue import Catalogue, Hit
from distill.labeling.queries.catalogue_config import CatalogueConfig
from distill.labeling.queries.catalogue_file import open_catalogue, read_clicks
from distill.labeling.queries.category_vote import CategoryShare, vote_categories
from distill.labeling.queries.expansion import CoClicks, plain_rewrites, title_terms
from distill.labeling.queries.spelling import SpellingCorrector, SpellingOptions
from distill.labeling.queries.word_counts import WordCounts
from distill.labeling.task import Task
from distill.teachers.functions import FunctionTeacher
from distill.teachers.query_tools_config import CLICK_TOOLS, TOOL_TASKS, QueryToolsTeacherConfig

_VERSION = 2
"""Counted up where a tool comes to answer otherwise, since its code is no part of the request."""


class QueryTools:
    """The tools of one section. The catalogue is indexed when the first of them answers.

    Args:
        task: What is asked; a tool answers the part, or the whole, of its own type.
        config: The section.
        catalogue: What they read.
    """

    def __init__(self, task: Task, config: QueryToolsTeacherConfig, catalogue: CatalogueConfig) -> None:
        self._task = task
        self._config = config
        self._section = catalogue

    def function(self, name: str) -> Callable[[Mapping[str, str]], Any]:
        """A tool as a labeling function: abstains where it has nothing to say.

        Args:
            name: Of the tool.

        Returns:
            Takes a row's inputs; gives the answer with its confidence, by part where the task has parts, or None.

        Raises:
            DataError: The task does not ask what the tool answers, or it reads clicks and there are none.
        """
        single = task_of_tool(name, self._task)
        if single is None:
            raise DataError(f"query_tools: {name} answers {TOOL_TASKS[name]}, which the task does not ask; take it out")
        if name in CLICK_TOOLS and self._section.clicks is None:
            raise DataError(f"query_tools: {name} reads clicks, got none; give data.catalogue.clicks, or take it out")
        answer: Callable[[str, Task], Stated | None] = getattr(self, f"_{name}")

        def verdict(row: Mapping[str, str]) -> Any:
            said = answer(row[single.source], single)
            if said is None:
                return None
            said = Stated(said.answer, said.confidence * self._config.trust)
            return said if single.part is None else {single.part: said}

        return verdict

    @cached_property
    def _catalogue(self) -> Catalogue:
        return open_catalogue(self._section)

    @cached_property
    def _clicks(self) -> CoClicks:
        assert self._section.clicks is not None, "refused where there are none"
        return read_clicks(self._section.clicks, shrinkage=self._config.shrinkage)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """Where products stand in the catalogue, by id."""
        return {product: place for place, product in enumerate(self._catalogue.product_ids)}

    @cached_property
    def _brands(self) -> BrandDictionary:
        listed = next((single.brands for single in self._task.singles if single.brands is not None), None)
        entries = listed.entries if listed is not None else ()
        aliases = {name: brand for brand, names in entries for name in (brand, *names)}
        return BrandDictionary.from_products(self._catalogue.titles, self._catalogue.brands, aliases=aliases)

    @cached_property
    def _corrector(self) -> SpellingCorrector:
        options = SpellingOptions(margin=self._config.margin)
        counts = WordCounts.of(self._catalogue.titles)
        return SpellingCorrector(counts, find_brands=self._brands.spans, options=options)

    def _noisy_channel(self, query: str, task: Task) -> Stated:
        found = self._corrector.correct(query)
        # How likely the reading that was taken is, of the two that it was between.
        odds = found.log_odds if found.changes else -found.log_odds
        return Stated(found.text, 1 / (1 + math.exp(-min(odds, 30.0))) if odds > 0 else 0.5)

    def _brand_dictionary(self, query: str, task: Task) -> Stated | None:
        near = self._catalogue.near(query, k=self._section.neighbours)
        found = self._brands.tag(query, near.brand_shares())
        # A query without a name of the list may well hold one that is not on it.
        return Stated([(one.start, one.end) for one in found], min(one.trust for one in found)) if found else None

    def _category_vote(self, query: str, task: Task) -> Stated | None:
        hits = self._catalogue.search([query], k=self._section.neighbours)[0]
        voted = vote_categories(self._catalogue, hits, least=self._config.least)
        return self._of_vote(voted, task, believed=1.0)

    def _of_vote(self, voted: Sequence[CategoryShare], task: Task, *, believed: float) -> Stated | None:
        """Of categories voted for, those that the task has, or the nearest above them; surer the larger their share."""
        known = {*task.labels, *(task.tree.below if task.tree is not None else ())}
        shares: dict[str, float] = {}
        for one in voted:
            place = _nearest(one.category, known)
            if place is not None:
                shares[place] = shares.get(place, 0.0) + one.share
        kept = sorted(shares, key=lambda place: (-shares[place], place))[: task.most if task.several else 1]
        if not kept:
            return None
        sure = believed * min(1.0, sum(shares[place] for place in kept))
        return Stated(kept if task.several else kept[0], sure)

    def _co_clicks(self, query: str, task: Task) -> Stated | None:
        found = self._clicks(query, most=task.most, least=self._config.similarity)
        return Stated([one.text for one in found], found[0].score) if found else None

    def _clicked_categories(self, query: str, task: Task) -> Stated | None:
        hits, believed = self._clicked(query)
        voted = vote_categories(self._catalogue, hits, least=self._config.least, weights=[hit.score for hit in hits])
        return self._of_vote(voted, task, believed=believed)

    def _clicked_brands(self, query: str, task: Task) -> Stated | None:
        hits, believed = self._clicked(query)
        shares: dict[str, float] = {}
        for hit in hits:
            brand = self._catalogue.brands[hit.product]
            shares[brand] = shares.get(brand, 0.0) + hit.score / sum(one.score for one in hits)
        found = [one for one in self._brands.tag(query, shares) if shares.get(one.brand, 0.0) >= self._config.least]
        if not found:
            return None
        sure = min(shares[one.brand] for one in found)
        return Stated([(one.start, one.end) for one in found], believed * sure)

    def _clicked(self, query: str) -> tuple[list[Hit], float]:
        """Products of the catalogue clicked after a query, weighing log(1 + clicks); how far they are believed."""
        clicked = [(self._places.get(one.product), one.clicks) for one in self._clicks.log.products(query)]
        known = [(place, clicks) for place, clicks in clicked if place is not None]
        total = sum(clicks for _, clicks in known)
        hits = [Hit(place, math.log1p(clicks)) for place, clicks in known]
        return hits, total / (total + self._config.shrinkage) if total else 0.0

    def _title_terms(self, query: str, task: Task) -> Stated | None:
        found = title_terms(self._catalogue, query, k=self._section.neighbours, most=task.most)
        return Stated([one.text for one in found], 1.0) if found else None

    def _plain_rewrites(self, query: str, task: Task) -> Stated | None:
        found = plain_rewrites(query)
        return Stated([one.text for one in found], 1.0) if found else None


def _nearest(category: str, known: Collection[str]) -> str | None:
    """A category of the catalogue as a task has it: itself, else the lowest above it; None where there is none."""
    parts = category.split(SEPARATOR)
    paths = (SEPARATOR.join(parts[:depth]) for depth in range(len(parts), 0, -1))
    return next((path for path in paths if path in known), None)


def task_of_tool(name: str, task: Task) -> Task | None:
    """The part of a task, or the task, that a tool answers; None where it asks nothing of the kind."""
    return next((single for single in task.singles if single.type == TOOL_TASKS[name]), None)


def query_tool_teachers(
    section: str, config: QueryToolsTeacherConfig, *, task: Task, catalogue: CatalogueConfig
) -> list[FunctionTeacher]:
    """A teacher for each tool of a section; each its own family, since each looks at evidence of its own.

    Args:
        section: Name of the section; a teacher is ``section.tool``.
        config: The section.
        task: What is asked; each tool answers the part that is of its kind.
        catalogue: Products, and clicks where a tool reads them; read when the first tool is asked.

    Raises:
        DataError: A tool answers nothing that the task asks.
    """
    tools = QueryTools(task, config, catalogue)
    settings = [_VERSION, config.model_dump(mode="json"), catalogue.model_dump(mode="json", exclude={"judgments"})]
    basis = json.dumps([settings, task.basis], default=str)
    return [
        FunctionTeacher(f"{section}.{name}", tools.function(name), family=name, basis=f"{name} {basis}")
        for name in config.functions
    ]
