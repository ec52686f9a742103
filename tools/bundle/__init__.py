"""Trained runs -> a folder for Kaggle: code, weights, wheels and a notebook that infers without internet."""
