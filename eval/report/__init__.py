"""The run report: facts gathered once, put into words, tables, plots and a page."""
