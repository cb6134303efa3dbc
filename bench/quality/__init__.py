"""What pruning costs in quality and what it pays in milliseconds: `python -m bench quality`."""
