"""Image files -> batches of raw pixels."""
