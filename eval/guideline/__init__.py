"""The guideline review: why judges disagree, which clauses are behind it, and trying edits."""
