"""The question put to a teacher about a row, or about several at once."""
