"""A competition's folder -> its competition file. Imports no torch."""
