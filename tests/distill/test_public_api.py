import distill

CALLABLE = [name for name in distill.__all__ if name != "ABSTAIN"]


def test_the_names_of_the_library_are_these():
    assert sorted(distill.__all__) == [
        "ABSTAIN",
        "DistillError",
        "Guideline",
        "LabelingFunction",
        "Recipe",
        "Run",
        "Task",
        "aggregate",
        "analyze_labeling_functions",
        "evaluate",
        "label",
        "labeling_function",
        "load_recipe",
        "load_student",
        "read_rows",
        "review",
        "run",
        "train",
    ]
    for name in CALLABLE:
        assert callable(getattr(distill, name)), name
    assert distill.ABSTAIN is None


def test_every_public_name_is_documented():
    for name in CALLABLE:
        assert (getattr(distill, name).__doc__ or "").strip(), name


def test_running_a_recipe_does_not_hide_the_function_of_the_same_name():
    import distill.runner
    import distill.runs

    assert callable(distill.run)
