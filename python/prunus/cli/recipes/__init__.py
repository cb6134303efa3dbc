"""Recipes: verbs in a row, with their arguments, as Python objects or as a YAML file."""

from prunus.cli.recipes.recipe import Recipe
from prunus.cli.recipes.steps import Accelerate, Export, Prune, Recover, Shrink, Step

__all__ = ["Accelerate", "Export", "Prune", "Recipe", "Recover", "Shrink", "Step"]
