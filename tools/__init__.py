"""Commands that a person runs beside the pipeline: python -m tools.NAME. Nothing in src imports them."""
