"""A competition's files <-> tables: pandas and numpy, no torch."""
