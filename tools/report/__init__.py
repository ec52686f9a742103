"""One page for a trained run, or to compare several: what happened, and what to do next."""
