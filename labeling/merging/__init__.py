"""Votes merged into one label a row: methods, how voters hang together, and what a label is worth."""
