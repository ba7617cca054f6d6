"""Annotators: their labels in files, their agreement, whom to ask next."""
