"""Several predictions -> one: judged by nested cross-validation, written as a run's folder."""
