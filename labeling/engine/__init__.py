"""The engine: a lane for each teacher, its limits and budgets, live requests and batch jobs, from rows to votes."""
