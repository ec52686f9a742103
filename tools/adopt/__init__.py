"""A competition's folder -> its competition file: looks once, before anything is trained; no torch."""
