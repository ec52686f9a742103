"""Predictions -> judgement: numpy and scikit-learn, no torch."""
