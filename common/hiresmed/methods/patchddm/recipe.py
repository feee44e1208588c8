"""Settings that follow from the knob `recipe`."""

from __future__ import annotations

from typing import Any

from ...core.knobs import parse_choice


def by_recipe(recipe: str, fast: Any, paper: Any) -> Any:
    """A setting's value in the recipe that was chosen; a knob's own value takes the place of both.

    Raises:
        InputError: an unknown recipe.

    >>> by_recipe("paper", fast=5, paper=20)
    20
    """
    return parse_choice({"fast": fast, "paper": paper}, recipe, "recipe")
