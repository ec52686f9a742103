"""Ray's launcher; tests/nightly/test_ray.py has what needs a cluster."""
