"""Losses of students: their formulas, their settings in a recipe, and what each needs of a row."""
