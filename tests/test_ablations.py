"""Tables and figures as targets of their own, over a finished run: what they share is made once."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from acr.files import Arrays, read_json
from tests.running import ABLATIONS, MICRO, MICRO_ABLATIONS, ROOT, dry_run, plans

pytestmark = pytest.mark.slow


def test_only_what_is_new_is_made(run: Path) -> None:
    (answer,) = plans([dry_run(run, "--", *ABLATIONS, config=[MICRO, MICRO_ABLATIONS])])
    counts = dict(re.findall(r"^(\w+) +(\d+)$", answer["output"], re.MULTILINE))
    assert counts["classifier"] == "2"
    assert (counts["seeds"], counts["measure_seeds"], counts["layer_sweep_shard"]) == ("3", "3", "1")
    assert not {"splits", "affinity", "segmenter", "predictions"} & set(counts)


def test_a_row_knows_what_it_was_made_from(ablated: Path) -> None:
    table = pd.read_csv(ablated / "tables" / "table_4.csv")
    ours = table[table["source"] == "ours"].set_index("method").loc["both"]
    both = [read_json(ablated / "metrics" / "seeds" / f"{name}.train.json")["miou"] for name in ("acr_star", "untrained")]
    assert ours["seed"] == pytest.approx(np.mean(both))
    assert ours["seed_sd"] == pytest.approx(np.std(both, ddof=1))
    assert (ours["seed_paper"], ours["refined_paper"], ours["split"]) == (59.4, 67.3, "train")
    assert ours["backbone"] == "vit_stem8_96"
    assert (ours["weights"], ours["images"]) == ("none", 12)
    assert re.fullmatch(r"[0-9a-f]{7,40}.*|unknown", ours["commit"])
    assert table["method"].tolist()[:4] == ["none", "activation", "affinity", "both"]


def test_the_figure_has_a_row_for_each_first_layer(ablated: Path) -> None:
    frame = pd.read_csv(ablated / "figures" / "figure_8.csv")
    assert frame["first_layer"].tolist() == [1, 2, 3]
    # all layers, as the seeds of the preset are made
    alone = read_json(ablated / "metrics" / "seeds" / "acr.train.json")
    assert frame["miou"][0] == pytest.approx(alone["miou"], abs=0.5)
    assert (ablated / "figures" / "figure_8.png").stat().st_size > 5_000


def test_costs_and_classes_are_tables_too(ablated: Path) -> None:
    costs = pd.read_csv(ablated / "tables" / "table_9.csv").set_index("source").loc["ours"]
    assert costs["speed"] > 0
    assert costs["device"] == "cpu"
    assert (costs["backbone"], str(costs["resolution"])) == ("vit_stem8_96", "64")
    classes = pd.read_csv(ablated / "tables" / "table_10.csv")
    metrics = read_json(ablated / "metrics" / "predictions" / "deeplab_crf.val.json")
    ours = classes[classes["source"] == "ours"].iloc[0]
    assert ours["iou_background"] == pytest.approx(metrics["iou"]["background"])
    assert "| background |" in (ablated / "tables" / "table_10.md").read_text()


def test_maps_with_aligned_corners_are_finer(ablated: Path) -> None:
    coarse, fine = Arrays(ablated / "seeds/acr/maps.npz"), Arrays(ablated / "seeds/mctformer/maps.npz")
    for name in coarse:
        assert fine[name].shape == (len(coarse[name]), 4 * coarse[name].shape[1], 4 * coarse[name].shape[2])


def test_a_target_that_the_configuration_lacks_says_where_it_is(run: Path) -> None:
    (answer,) = plans([dry_run(run, "--", "table_7")])
    assert answer["status"] != 0
    assert "the configuration has no table_7; lay config/ablations.yaml over it" in answer["output"]


def test_every_target_of_the_paper_plans_over_every_preset(tmp_path: Path) -> None:
    paper = [*(f"table_{number}" for number in range(1, 12)), "figure_8"]
    runs = []
    for preset in ("config", "voc12", "voc12-small", "coco14", "folder"):
        folder = tmp_path / preset
        folder.mkdir()
        configs = [ROOT / "config" / f"{name}.yaml" for name in (preset, "ablations")]
        # rows of table 2 are the preset's own, and a folder's has none
        targets = [name for name in paper if (preset, name) != ("folder", "table_2")]
        runs.append(dry_run(folder, "-q", "--", *targets, config=configs))
    for answer in plans(runs):
        assert answer["status"] == 0, answer["output"]
