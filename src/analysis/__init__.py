"""A trained run in hand, for notebooks and reports: its tables, networks, images, errors, saliency, figures."""
