"""How good is it: metrics, intervals, agreement, the ladder, the guideline review, and the two reports."""
