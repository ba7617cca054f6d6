"""What an encoder learns from its teachers' reasoning, and how it names clauses."""
