"""How good predictors are at the parts of a query task, and the report that says so."""
