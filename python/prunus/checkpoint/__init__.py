"""Pruned models in files: state with packed weights, and whole directories."""

from prunus.checkpoint.pretrained import load_pretrained, write_pretrained
from prunus.checkpoint.verb import load, save

__all__ = ["load", "load_pretrained", "save", "write_pretrained"]
