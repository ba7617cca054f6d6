"""Small GPTs as students: prompts, objectives, traces written, JSON answers."""
