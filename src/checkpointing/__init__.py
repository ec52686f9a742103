"""What a run leaves on disk and how it resumes; the one place that knows the names of its files."""
