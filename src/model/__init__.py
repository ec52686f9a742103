"""A batch of raw pixels -> logits -> loss."""
