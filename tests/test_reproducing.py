"""The presets of the method and docs/reproducing.md say what the recipes say."""

from pathlib import Path

import pytest
import yaml

from acr.config import build
from acr.recipes import Affinity, Classifier, Seeds
from acr.reproducing import differences, page, preset

ROOT = Path(__file__).parent.parent
PLACES = {
    "classifiers": ("classifiers", "acr"),
    "seeds": ("seeds", "acr"),
    "affinities.labels": ("affinities", "psa", "labels"),
}


def said(name: str) -> dict[str, dict[str, object]]:
    """A preset's keys by stage, nested ones with dots, as its dataclass reads them."""
    content = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    given = {"classifier": "c", "seeds": "s"}
    kinds = {"classifiers": (Classifier, ()), "seeds": (Seeds, ("classifier",)), "affinities": (Affinity, ("seeds",))}
    found: dict[str, dict[str, object]] = {}
    for stage, (section, recipe, *inner) in PLACES.items():
        if section not in content:
            continue
        kind, needed = kinds[section]
        values = content[section][recipe]
        built = build(kind, {**{key: given[key] for key in needed}, **values}, section)
        for part in inner:
            built, values = getattr(built, part), values[part]
        for key, value in values.items():
            read = getattr(built, key)
            nested = (
                {f"{key}.{inner_key}": getattr(read, inner_key) for inner_key in value}
                if isinstance(value, dict)
                else {key: read}
            )
            found.setdefault(stage, {}).update(nested)
    return found


@pytest.mark.parametrize("name", ["paper", "official"])
def test_a_preset_of_the_method_says_all_that_is_published_and_nothing_else(name):
    assert said(name) == preset(name)


def test_the_page_is_what_the_recipes_say():
    assert (ROOT / "docs" / "reproducing.md").read_text() == page()


def test_known_deviations_of_the_official_code_are_among_the_differences():
    official = {(each.stage, each.key): each.official for each in differences()}
    assert official["classifiers", "training.momentum"] == 5e-4
    assert official["classifiers", "training.weight_decay"] == 0
    assert official["classifiers", "tokens"] == "pre_norm"
    assert official["seeds", "product"] == "affinity_times_map"
    assert official["seeds", "affinity_layers"] == "all"
    assert official["affinities.labels", "high"] == 12
    # 10 epochs of 10,582 images among four, a step an image
    assert official["classifiers", "training.epochs"] * 10_582 == pytest.approx(26_450, rel=1e-3)


def test_every_published_value_has_a_source_and_ours_is_the_default():
    for each in differences():
        assert each.source, each
    ours = {(each.stage, each.key): each.ours for each in differences()}
    assert ours["classifiers", "training.learning_rate"] == Classifier().training.learning_rate == 0.01
    assert ours["seeds", "layers"] == Seeds(classifier="c").layers == 2
