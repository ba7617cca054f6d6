"""Teacher log-probabilities on disk, a few drawn tokens a position, and the loss on them."""
