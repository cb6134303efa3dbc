"""The microbenchmark suite: `python -m bench run --quick` from the repository's root (bench/README.md)."""
