"""The technique study: what each technique of the textbooks changes, one at a time, on the same folds."""
