"""Recipes: complete training runs as frozen values. `table.py` holds them, `recipe.py` says what a recipe is."""

from tectum.training.recipes.recipe import ABLATIONS as ABLATIONS
from tectum.training.recipes.recipe import BALANCES as BALANCES
from tectum.training.recipes.recipe import Recipe as Recipe
from tectum.training.recipes.recipe import Target as Target
from tectum.training.recipes.recipe import read as read
from tectum.training.recipes.recipe import save as save
from tectum.training.recipes.table import RECIPES as RECIPES
