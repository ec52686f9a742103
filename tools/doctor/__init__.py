"""A competition -> findings: what is wrong with its images, answers and folds, said before anything is trained."""
