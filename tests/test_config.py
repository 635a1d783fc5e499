"""The configuration: what is refused, in which words, and what recipes come out."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.utils import update_config

from acr import recipes
from acr.config import canonical, check, load
from acr.recipes import Classifier, Crf, Predictions, Training

CONFIGS = sorted((Path(__file__).parent.parent / "config").glob("*.yaml"))
OVER = {
    "ablations": (),
    "ablations-textures": ("ablations",),
    "table-4-masks": ("ablations",),
    "paper": (),
    "official": (),
    "acr-plus": (),
    "acr-plus-small": ("acr-plus",),
}  # what is laid under an overlay
OVERLAYS = [path for path in CONFIGS if path.stem in OVER]
PRESETS = [path for path in CONFIGS if path.stem not in OVER]
BASE = {
    "dataset": "toy",
    "datasets": {"toy": {"kind": "textures", "size": 32}},
    "weights": {"net": {"model": "mobilenetv2_100", "normalisation": "half", "options": {"pad_type": "same"}}},
    "classifiers": {"acr": {"activation": 10, "training": {"learning_rate": 1.0e-3}}},
    "seeds": {"acr": {"classifier": "acr"}},
    "affinities": {"psa": {"seeds": "acr"}},
    "pseudo_labels": {"acr": {"seeds": "acr", "affinity": "psa"}},
    "segmenters": {"deeplab": {"labels": "acr", "weights": "net", "options": {"width": 2}}},
    "predictions": {"deeplab": {"segmenter": "deeplab"}},
}


def laid(path: Path, *overlays: str) -> dict:
    """A preset with overlays on it, the last on top."""
    configuration = yaml.safe_load(path.read_text())
    for name in overlays:
        update_config(configuration, yaml.safe_load(path.with_name(f"{name}.yaml").read_text()))
    return configuration


def changed(path: str, value: object) -> dict:
    """BASE with one dotted key set."""
    configuration = copy.deepcopy(BASE)
    *parents, last = path.split(".")
    place = configuration
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return configuration


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "pseudo_labels.acr.segmenter",
            "deeplab",
            "pseudo_labels.acr is made of itself: acr -> acr; let its segmenter learn from others",
        ),
        (
            "segmenters.deeplab.classifier",
            "acr",
            "segmenters.deeplab starts from classifier 'acr' and from weights 'net'; make one of them null",
        ),
        ("dataset", "toi", "dataset is 'toi', which `datasets` does not describe; did you mean 'toy'?"),
        ("datasets.toy.kind", "voc", "datasets.toy.kind is 'voc', which is no kind of data set; did you mean 'voc12'?"),
        ("datasets.toy.sise", 3, "datasets.toy has no key 'sise'; did you mean 'size'?"),
        ("seed", {}, "the configuration has no key 'seed'; did you mean 'seeds'?"),
        ("classifiers.acr.activatoin", 1, "classifiers.acr has no key 'activatoin'; did you mean 'activation'?"),
        ("classifiers.acr.distance", "L1", "classifiers.acr.distance is 'L1'; it must be one of l1, l2, smooth_l1"),
        (
            "classifiers.acr.training.learning_rate",
            "fast",
            "classifiers.acr.training.learning_rate is 'fast', but must be a number",
        ),
        ("classifiers.acr.training.batch_size", 2.5, "classifiers.acr.training.batch_size is 2.5, but must be a whole number"),
        ("classifiers.acr.training.batch_size", 0, "classifiers.acr.training.batch_size is 0, but must be positive"),
        ("classifiers.acr.training.epochs", -1, "classifiers.acr.training.epochs is -1.0, but must not be negative"),
        ("classifiers.acr.activation", True, "classifiers.acr.activation is True, but must be a number"),
        (
            "classifiers.acr.views",
            ["hflop"],
            "classifiers.acr.views[0] is 'hflop', and there is no view 'hflop'; did you mean 'hflip'?",
        ),
        ("classifiers.acr.views", "hflip", "classifiers.acr.views is 'hflip', but must be a list"),
        ("classifiers.acr.long_side", [1], "classifiers.acr.long_side is [1], but must be a list of 2"),
        ("classifiers.acr", 3, "classifiers.acr is 3, but must be a mapping of keys to values"),
        ("classifiers", [1], "classifiers is [1], but must be a mapping of names to recipes"),
        (
            "seeds.acr.classifier",
            "acl",
            "seeds.acr.classifier is 'acl', which `classifiers` does not define; did you mean 'acr'?",
        ),
        ("seeds.acr", {}, "seeds.acr lacks the key 'classifier', which has no default"),
        ("seeds.acr.layers", 0, "seeds.acr.layers is 0, but must be positive"),
        ("seeds.star", {"extends": "acx"}, "seeds.star extends 'acx', which is not in seeds; did you mean 'acr'?"),
        ("seeds.star", {"extends": "star"}, "seeds.star extends itself through star -> star"),
        ("seeds.a/b", {"classifier": "acr"}, "seeds.a/b cannot name files; use letters, digits, _ and -"),
        ("pseudo_labels.acr.background", "otsi", "pseudo_labels.acr.background is 'otsi'; did you mean 'otsu'?"),
        ("tables.t", {"rows": [{"name": "x", "seeds": "b"}]}, "tables.t.rows[0].seeds is 'b', which `seeds` does not define; "),
        ("predictions.deeplab.found", 30, "predictions.deeplab.found is 30.0, but must be a probability between 0 and 1"),
        ("execution.shards", 0, "execution.shards is 0, but must be positive"),
        ("execution.device", "gpu", "execution.device is 'gpu', but must be auto, cpu, cuda, or one of several GPUs such as "),
        ("execution.device", "cuda:", "execution.device is 'cuda:', but must be auto, cpu, cuda, or one of several GPUs such"),
        ("execution.processes", 3, "classifiers.acr.training.batch_size is 4, which the 3 processes of execution.processes "),
        ("datasets.toy.val", "a/b", "datasets.toy.val is 'a/b', which cannot name files; use letters, digits, _ and -"),
        (
            "datasets.toy.val",
            "skipped",
            "datasets.toy.val is 'skipped', the name of another table beside those of the splits; ",
        ),
        ("datasets.toy.train", "all", "datasets.toy.train is 'all', the name of another table beside those of the splits; "),
        (
            "datasets.toy",
            {"kind": "voc12", "val": "test"},
            "datasets.toy.val is 'test', whose masks only VOC's server has; ask for the target voc_test_submission instead",
        ),
        ("datasets.toy", {"kind": "folder", "val_share": 1.0}, "datasets.toy.val_share is 1.0, but must lie between 0 and 1"),
        ("datasets.toy.on_unreadable", "warn", "datasets.toy.on_unreadable is 'warn'; it must be one of skip, fail"),
        ("datasets.toy.val_images", 0, "datasets.toy.val_images is 0, but must be positive"),
        ("classifiers.acr.activation", float("nan"), "classifiers.acr.activation is nan, but must be a finite number"),
        ("classifiers.acr.views", [], "classifiers.acr.views is empty, but must hold at least one item"),
        ("segmenters.deeplab.crop_scales", [1, 0], "segmenters.deeplab.crop_scales[1] is 0.0, but must be positive"),
    ],
)
def test_a_wrong_key_is_one_clear_sentence(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        check(changed(key, value))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_devices_are_taken_by_name(device: str) -> None:
    assert check(changed("execution.device", device)).execution.device == device


def test_a_batch_is_shared_out_equally() -> None:
    configuration = changed("execution.processes", 2)
    assert check(configuration).execution.processes == 2
    configuration["segmenters"]["deeplab"]["training"] = {"batch_size": 5}
    with pytest.raises(ValueError, match=r"segmenters\.deeplab\.training\.batch_size is 5, which the 2 processes"):
        check(configuration)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("classifiers.acr.training.learning_rate", "1e-4", 1e-4),
        ("classifiers.acr.training.batch_size", "8", 8),
        ("classifiers.acr.training.steps", "null", None),
        ("classifiers.acr.long_side", ["0.9", "1"], (0.9, 1.0)),
        ("segmenters.deeplab.freeze_norm", "false", False),
        ("predictions.deeplab.crf", "null", None),
    ],
)
def test_what_the_command_line_hands_on_as_text_is_read(key: str, text: Any, value: object) -> None:
    section, name, *keys = key.split(".")
    found = check(changed(key, text)).recipe(section, name)
    for each in keys:
        found = getattr(found, each)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["2.5", "1_000", "yes", "nan"])
def test_text_that_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"batch_size is .*, but must be a whole number"):
        check(changed("classifiers.acr.training.batch_size", text))


def test_extends_merges_nested_keys() -> None:
    plan = check(changed("classifiers.slow", {"extends": "acr", "training": {"epochs": 2}}))
    slow = plan.recipe("classifiers", "slow")
    assert (slow.activation, slow.training.learning_rate, slow.training.epochs) == (10.0, 1e-3, 2.0)


def test_nested_keys_keep_the_stage_s_own_defaults() -> None:
    plan = check(changed("segmenters.deeplab.training", {"batch_size": 2}))
    training = plan.recipe("segmenters", "deeplab").training
    assert (training.batch_size, training.steps, training.learning_rate) == (2, 20_000, 2.5e-4)
    crf = check(changed("predictions.deeplab.crf", {"iterations": 3})).recipe("predictions", "deeplab").crf
    assert crf == Crf(3, 1.0, 3.0, 67.0, 3.0, 4.0)
    assert check(changed("predictions.deeplab.crf", None)).recipe("predictions", "deeplab").crf is None


def test_a_network_is_built_and_fed_as_its_weights_require() -> None:
    segmenter = check(BASE).recipe("segmenters", "deeplab")
    assert segmenter.normalisation == "half"
    assert segmenter.options == {"pad_type": "same", "width": 2}
    assert (
        check(changed("segmenters.deeplab.normalisation", "imagenet")).recipe("segmenters", "deeplab").normalisation
        == "imagenet"
    )


def test_a_recipe_survives_its_canonical_form() -> None:
    plan = check(BASE)
    for section, kind in recipes.SECTIONS.items():
        for recipe in plan.recipes[section].values():
            assert load(kind, canonical(recipe)) == recipe


def test_the_canonical_form_tells_two_swapped_values_apart() -> None:
    one, two = (Classifier(activation=a, affinity=b) for a, b in ((1.0, 2.0), (2.0, 1.0)))
    assert canonical(one) != canonical(two)


def test_the_order_of_keys_does_not_count() -> None:
    training = {"epochs": 2, "batch_size": 8}
    recipes = [
        check(changed("classifiers.acr", {"training": t})).recipe("classifiers", "acr")
        for t in (training, dict(reversed(training.items())))
    ]
    assert canonical(recipes[0]) == canonical(recipes[1])


def test_the_defaults_are_the_papers() -> None:
    """Appendix A and table 2's caption; DeepLab's CRF as FIELD's recipe of kazuto1011/deeplab-pytorch."""
    classifier = Classifier()
    assert (classifier.activation, classifier.affinity, classifier.image_size) == (100, 100, 384)
    assert classifier.training == Training(epochs=15.0, batch_size=4, learning_rate=0.01, weight_decay=5e-4, schedule="poly")
    assert Predictions(segmenter="any").crf == Crf(10, 1.0, 3.0, 67.0, 3.0, 4.0)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    plan = check(yaml.safe_load(path.read_text()))
    assert plan.recipes["predictions"]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_overlay_is_valid_over_every_preset(path: Path, overlay: Path) -> None:
    below = OVER[overlay.stem]
    plan = check(laid(path, *below, overlay.stem))
    assert plan.recipes != check(laid(path, *below)).recipes
    # an overlay of the method reaches what the preset makes without refinement as well
    assert dataclasses.replace(plan.recipe("seeds", "acr_star"), refine=True) == plan.recipe("seeds", "acr")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_ablations_under_acr_plus_are_of_its_method(path: Path) -> None:
    plan = check(laid(path, "ablations", "acr-plus"))
    plus, baseline = plan.recipe("seeds", "acr"), plan.recipe("seeds", "baseline")
    assert dataclasses.replace(baseline, classifier="acr") == plus
    assert (plus.method, plan.recipe("classifiers", "baseline").activation) == ("generic", 0)
    assert {"table_4", "table_5"} <= plan.recipes["tables"].keys()


def test_several_recipes_under_a_key_are_each_looked_up() -> None:
    rows = [{"name": "ACR", "seeds": ["acr", "acr_"]}]
    with pytest.raises(ValueError, match=r"tables\.t\.rows\[0\]\.seeds is 'acr_', which `seeds` does not define; did you mean"):
        check(changed("tables.t", {"rows": rows}))
    rows[0]["seeds"] = ["acr", "acr"]
    assert check(changed("tables.t", {"rows": rows})).recipe("tables", "t").rows[0].recipes("seeds") == ("acr", "acr")


def test_the_views_named_here_are_those_that_exist() -> None:
    from acr.views import VIEWS

    assert sorted(recipes.VIEW_NAMES) == sorted(VIEWS)


def test_pseudo_labels_that_are_made_of_themselves_in_a_round_are_refused() -> None:
    configuration = copy.deepcopy(BASE)
    configuration["pseudo_labels"]["second"] = {"seeds": "acr", "segmenter": "deeplab"}
    check(configuration)  # one round is self-training
    configuration["segmenters"]["last"] = {"labels": "second"}
    configuration["pseudo_labels"]["acr"]["segmenter"] = "last"
    with pytest.raises(
        ValueError, match=r"^pseudo_labels.acr is made of itself: acr -> second -> acr; let its segmenter learn"
    ):
        check(configuration)


def test_a_segmenter_that_goes_on_from_a_classifier_is_built_and_fed_as_it_is() -> None:
    configuration = copy.deepcopy(BASE)
    configuration["weights"]["vit"] = {"model": "vit_tiny_patch16_224", "normalisation": "half"}
    configuration["classifiers"]["acr"] |= {"backbone": "vit_tiny_patch16_224", "weights": "vit"}
    configuration["segmenters"]["deeplab"] |= {"classifier": "acr", "weights": None}
    segmenter = check(configuration).recipe("segmenters", "deeplab")
    assert (segmenter.backbone, segmenter.normalisation, segmenter.options) == ("vit_tiny_patch16_224", "half", {})


def test_further_random_states_repeat_what_is_trained_and_all_that_is_made_of_it() -> None:
    configuration = copy.deepcopy(BASE) | {"random_states": 3}
    configuration["segmenters"]["deeplab"]["training"] = {"random_state": 5}
    rows = [{"name": "ACR", "seeds": "acr", "predictions": ["deeplab", "plain"]}]
    configuration["tables"] = {"mine": {"rows": rows}}
    configuration["predictions"]["plain"] = {"segmenter": "deeplab", "crf": None}
    plan = check(configuration)
    assert [*plan.recipes["classifiers"]] == ["acr", "acr_state_1", "acr_state_2"]
    chain = {section: [plan.recipe(section, f"{name}_state_2")] for section, name in REPEATED.items()}
    chain["classifiers"] = [plan.recipe("classifiers", "acr_state_2")]
    (seeds,), (affinity,), (labels,), (segmenter,) = (
        chain[section] for section in ("seeds", "affinities", "pseudo_labels", "segmenters")
    )
    assert (seeds.classifier, affinity.seeds, labels.seeds, labels.affinity) == (
        "acr_state_2",
        *["acr_state_2"] * 2,
        "psa_state_2",
    )
    assert (segmenter.labels, plan.recipe("predictions", "plain_state_1").segmenter) == ("acr_state_2", "deeplab_state_1")
    assert (segmenter.weights, labels.segmenter) == ("net", None)  # weights are of no random state
    assert [plan.recipe("segmenters", name).training.random_state for name in ("deeplab", "deeplab_state_2")] == [5, 7]
    assert chain["classifiers"][0].training.random_state == 2
    (row,) = plan.recipe("tables", "mine").rows
    assert row.seeds == ("acr", "acr_state_1", "acr_state_2")
    assert row.predictions == tuple(f"{name}{state}" for name in ("deeplab", "plain") for state in ("", "_state_1", "_state_2"))
    assert check(BASE | {"random_states": 1}) == check(BASE)


REPEATED = {
    "seeds": "acr",
    "affinities": "psa",
    "pseudo_labels": "acr",
    "segmenters": "deeplab",
    "predictions": "deeplab",
}


def test_predictions_hold_the_recipes_that_they_are_made_as() -> None:
    configuration = copy.deepcopy(BASE) | {"random_states": 2}
    configuration["predictions"] = {"deeplab": {"segmenter": "deeplab", "labels": "acr"}, "alone": {"segmenter": "deeplab"}}
    plan = check(configuration)
    for state in ("", "_state_1"):
        together = plan.recipe("predictions", f"deeplab{state}")
        assert together.labels == f"acr{state}"
        assert together.labels_recipe == plan.recipe("pseudo_labels", f"acr{state}")
        assert together.seeds_recipe == plan.recipe("seeds", f"acr{state}")
        assert load(Predictions, canonical(together)) == together
    # whatever is said of them
    configuration["predictions"]["alone"] |= {"labels_recipe": {"seeds": "acr"}, "seeds_recipe": {"classifier": "acr"}}
    alone = check(configuration).recipe("predictions", "alone")
    assert (alone.labels_recipe, alone.seeds_recipe) == (None, None)


@pytest.mark.parametrize(("states", "said"), [(0, "random_states is 0, but must be at least 1"), ("many", "random_states is")])
def test_numbers_of_random_states_that_are_none_are_refused(states: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        check(BASE | {"random_states": states})


def test_a_recipe_with_the_name_of_a_repetition_is_refused() -> None:
    configuration = copy.deepcopy(BASE) | {"random_states": 2}
    configuration["seeds"]["acr_state_1"] = {"classifier": "acr"}
    with pytest.raises(ValueError, match=r"^seeds.acr_state_1 has the name of a repetition by random_states; give it another$"):
        check(configuration)
