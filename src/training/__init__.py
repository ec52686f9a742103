"""Model + batches -> trained folds."""
