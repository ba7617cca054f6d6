"""What a recipe's ``labeling`` section asks for around the engine: which rows, cascades, checks beside them."""
