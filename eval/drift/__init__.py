"""Two sets of rows compared: has the traffic moved, and what does that do to a student."""
