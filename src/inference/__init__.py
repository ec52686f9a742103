"""Trained folds -> test predictions."""
