"""acr-plus through the workflow: a segmenter on the classifier, self-training, and both over random states."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from acr.datasets.base import read_split
from acr.files import read_json
from acr.images import read_image, read_mask
from acr.inference import Predictor, Segmenter
from tests.running import MICRO, ROOT, dry_run, plans, snakemake

OVERLAY = ROOT / "config" / "acr-plus.yaml"
PREDICTED = "results/micro/predictions/deeplab_crf/val/provenance.json"


def configuration(folder: Path, name: str, values: dict) -> list[Path]:
    """The micro run with acr-plus over it, for a transformer of three layers, and what is said besides."""
    path = folder / name
    path.write_text(yaml.safe_dump({"seeds": {"acr": {"layers": 3}}} | values))
    return [MICRO, OVERLAY, path]


def jobs(output: str) -> dict[str, int]:
    """How many jobs of each rule a dry run says it would run."""
    lines = output.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {rule: int(count) for rule, count in map(str.split, filter(None, lines))}


@pytest.fixture(scope="module")
def plus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plus")
    made = snakemake(folder, "--", PREDICTED, config=configuration(folder, "plus.yaml", {}))
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.mark.slow
def test_labels_are_made_of_seeds_and_of_a_segmenter_that_goes_on_from_the_classifier(plus: Path) -> None:
    results = plus / "results" / "micro"
    classifier = read_json(results / "classifiers/acr/provenance.json")["outputs"]
    for name in ("first", "deeplab"):
        inputs = read_json(results / f"segmenters/{name}/provenance.json")["inputs"]
        path = "results/micro/classifiers/acr/model.safetensors"
        assert inputs[path] == classifier[path]
        assert read_json(results / f"segmenters/{name}/model.json")["stride"] == 8  # the side of its patches
    predicted = read_json(results / "predictions/deeplab_crf/val/provenance.json")
    assert {"results/micro/seeds/acr/maps.npz", "results/micro/classifiers/acr/model.safetensors"} <= predicted["inputs"].keys()
    assert predicted["recipe"]["labels_recipe"]["background"] == "otsu_of_split"
    inputs = read_json(results / "pseudo_labels/acr/provenance.json")["inputs"]
    assert {"results/micro/segmenters/first/model.safetensors", "results/micro/seeds/acr/maps.npz"} <= inputs.keys()
    assert not any("segmenters" in path for path in read_json(results / "pseudo_labels/first/provenance.json")["inputs"])
    changed = 0
    for record in (train := read_split(results / "splits/train.csv")).records:
        first, last = (read_mask(results / f"pseudo_labels/{name}/{record.image_id}.png") for name in ("first", "acr"))
        assert {*first.flat, *last.flat} <= {0, *(index + 1 for index in train.class_indices(record))}
        changed += (first != last).sum()
    assert changed > 0


@pytest.mark.slow
def test_photographs_of_anybody_get_masks_as_those_of_the_run(plus: Path) -> None:
    """By segmenter, seeds and classifier together: beside seeds of the tags that are found."""
    results = plus / "results" / "micro"
    predictor = Predictor.read(results / "predictions/deeplab_crf", "cpu")
    segmenter, others = Segmenter.read(results / "segmenters/deeplab", "cpu"), 0
    for record in read_split(results / "splits/val.csv").records:
        photograph = read_image(plus / record.image)
        made = read_mask(results / f"predictions/deeplab_crf/val/{record.image_id}.png")
        np.testing.assert_array_equal(predictor.mask(photograph), made)
        others += (segmenter.mask(photograph, (0.75,), predictor.crf) != made).sum()
    assert others > 0


@pytest.mark.slow
def test_only_what_is_made_of_a_change_is_made_again(plus: Path) -> None:
    """The first segmenter learns longer: labels that it has a say in, and all behind them."""
    longer = {"segmenters": {"first": {"training": {"steps": 4}}}}
    surer = {"predictions": {"deeplab_crf": {"found": 0.3}}}
    steeper = {"pseudo_labels": {"acr": {"seeds_weight": 4}}}
    said = {"plus": {}, "longer": longer, "surer": surer, "steeper": steeper}
    files = [configuration(plus, f"{name}.yaml", values) for name, values in said.items()]
    nothing, some, last, labels = plans([dry_run(plus, "--", PREDICTED, config=config) for config in files])
    assert "Nothing to be done" in nothing["output"]
    assert jobs(some["output"]).keys() == {"segmenter", "self_label_shard", "pseudo_labels", "prediction_shard", "predictions"}
    assert jobs(last["output"]).keys() == {"prediction_shard", "predictions"}
    # predictions too, which are made as these labels are, whether their segmenter comes out different or not
    assert jobs(labels["output"]).keys() == jobs(some["output"]).keys()


@pytest.mark.slow
def test_further_random_states_leave_the_first_as_it_is(plus: Path) -> None:
    """Of three states two are to be made, from their classifiers on."""
    targets = [PREDICTED.replace("deeplab_crf", f"deeplab_crf{state}") for state in ("", "_state_1", "_state_2")]
    config = configuration(plus, "states.yaml", {"random_states": 3})
    (answer,) = plans([dry_run(plus, "--", *targets, config=config)])
    assert jobs(answer["output"]) == {
        "classifier": 2,
        "seed_shard": 2,
        "seeds": 2,
        "pseudo_label_shard": 2,
        "self_label_shard": 2,
        "pseudo_labels": 4,
        "segmenter": 4,
        "prediction_shard": 2,
        "predictions": 2,
    }
