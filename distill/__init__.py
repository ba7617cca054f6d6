"""Turns large-model judgments into small, fast, trustworthy models for product search."""
