"""Students of query tasks: spelling, brands, categories and expansions in one pass."""
