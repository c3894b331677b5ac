"""How a model wants to be run: what files hold of it, and what a user says instead."""

import math
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from cristae.networks.recipe import (
    STORED,
    InferenceRecipe,
    choose_recipe,
    in_windows,
    read_recipe,
    stored_recipe,
)
from cristae.networks.windows import WindowRecipe
from cristae.prediction.checks import PredictConfig
from cristae.renamed import RENAMED, current_names

WINDOWS = WindowRecipe((4, 8, 8), (2, 4, 4), tta=4, combine="max")


@pytest.mark.parametrize(
    "recipe",
    [
        InferenceRecipe(),
        InferenceRecipe(tta=8, scales=(0.5, 1.0), section_spacing_nm=30.0),
        InferenceRecipe(precision="bfloat16", z_stride=2, combine="min"),
        InferenceRecipe(windows=WINDOWS),
    ],
)
def test_a_file_gives_the_recipe_back_and_names_others_only_where_they_differ(recipe):
    keys = stored_recipe(recipe)
    assert read_recipe(keys | {"channels": ["mask"]}, "model.pt") == recipe
    usual = InferenceRecipe()
    changed = {f.name for f in fields(recipe) if getattr(recipe, f.name) != getattr(usual, f.name)}
    assert current_names(keys).keys() == {*STORED, *changed}
    assert keys.keys().isdisjoint(RENAMED.values())


def test_files_of_before_name_nothing():
    assert read_recipe({"windows": None}, "model.pt") == InferenceRecipe()


def test_a_user_overrules_the_model_setting_by_setting():
    model = InferenceRecipe(tta=4, section_spacing_nm=30.0, combine="max")
    said = PredictConfig(tta=1, precision="float32")
    found = choose_recipe(said, model, section_nm=10.0)
    assert found == replace(model, tta=1, precision="float32", z_stride=3)
    assert choose_recipe(PredictConfig(), model, math.inf) == replace(model, z_stride=1)
    other = SimpleNamespace(z_stride=2)
    assert choose_recipe(other, model, 10.0) == replace(model, z_stride=2)


def test_windows_say_their_variants_and_float32():
    found = in_windows(InferenceRecipe(windows=WINDOWS))
    assert (found.tta, found.combine, found.precision) == (4, "max", "float32")
    assert in_windows(replace(found, precision="bfloat16")).precision == "bfloat16"
