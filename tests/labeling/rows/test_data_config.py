"""The data and aggregate sections of a recipe."""

import pytest
from pydantic import ValidationError

from distill.labeling.errors import DataError
from distill.labeling.merging.aggregate import METHODS
from distill.labeling.merging.aggregate_config import AGGREGATE_METHODS, merge_settings
from distill.labeling.rows.data_config import SHARES_WITH_GOLD, SHARES_WITHOUT_GOLD, SPLITS, DataConfig


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"rows": "a.csv", "goldd": "x"}, "goldd"),
        ({"rows": ""}, "is empty"),
        ({"rows": []}, "is empty"),
        ({"rows": "a.csv", "split": {"pool": 0.7, "test": 0.2}}, "sum to 0.9"),
        ({"rows": "a.csv", "split": {"pool": 1.5, "test": -0.5}}, "at least 0"),
        ({"rows": "a.csv", "split": {"dev": 1.0}}, "split"),
        ({"rows": "a.csv", "encoding": "utf-99"}, "utf-99"),
        ({"rows": "a.csv", "gold_map": {"4": "exact"}}, "needs gold"),
        ({"rows": "a.csv", "split_map": {"dev": "audit"}}, "needs split"),
        ({"rows": "a.csv", "split": {"pool": 1.0}, "split_map": {"dev": "audit"}}, "needs split"),
        ({"rows": "a.csv", "max_bad_fraction": 2}, "max_bad_fraction"),
    ],
)
def test_a_wrong_section_is_refused(section, says):
    with pytest.raises(ValidationError, match=says):
        DataConfig.model_validate(section)


def test_yaml_numbers_become_the_text_that_files_hold():
    config = DataConfig.model_validate(
        {
            "rows": "a.csv",
            "gold": "g",
            "gold_map": {4: "exact", 2.0: "none", None: "none"},
            "split": "s",
            "split_map": {None: "pool"},
        }
    )
    assert config.gold_map == {"4": "exact", "2": "none", "": "none"}
    assert config.split_map == {"": "pool"}


def test_every_field_describes_itself_for_editors():
    for model in (DataConfig, *(type(merge_settings(name)) for name in AGGREGATE_METHODS)):
        assert all(field.description for field in model.model_fields.values())


def test_default_shares_sum_to_one_over_known_splits():
    for shares in (SHARES_WITH_GOLD, SHARES_WITHOUT_GOLD):
        assert sum(shares.values()) == pytest.approx(1) and set(shares) <= set(SPLITS)


def test_a_recipe_can_name_every_method_and_no_other():
    assert set(AGGREGATE_METHODS) == {*METHODS, "auto"}
    with pytest.raises(DataError, match="no method 'dawid_skene_typo'"):
        merge_settings("dawid_skene_typo")
    with pytest.raises(DataError, match="prior: Input should be greater than or equal to 0"):
        merge_settings({"type": "dawid_skene", "prior": -1})
