"""Kept features of frozen backbones -> linear models with a penalty, judged on the folds, written as a run's folder."""
