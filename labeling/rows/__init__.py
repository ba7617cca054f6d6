"""Rows: read from anywhere, cleaned, named, split, and drawn from."""
