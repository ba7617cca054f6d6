import polars as pl

from distill.labeling.asking.cascade_votes import overruled_left_out


def test_one_teachers_label_takes_the_place_of_all_others() -> None:
    lines = [
        ("a", "quick", "labeled", "yes"),
        ("a", "other", "labeled", "yes"),
        ("a", "strong", "labeled", "no"),
        ("b", "quick", "labeled", "yes"),
        ("b", "strong", "failed", None),
        ("c", "quick", "labeled", "yes"),
        ("c", "other", "abstained", None),
    ]
    votes = pl.DataFrame(lines, schema=["row_id", "teacher", "outcome", "label"], orient="row")
    # Row a has strong's label alone; row b keeps quick's, since strong gave none; nobody overrules row c.
    assert overruled_left_out(votes, by="strong").rows() == lines[2:]
