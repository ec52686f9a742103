"""A competition -> findings: what is wrong with its images, labels and folds, before anything is trained."""
