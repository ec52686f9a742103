"""The tests; a package, since iterative-stratification installs one of this name, too."""
