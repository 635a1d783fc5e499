"""The workflow from `snakemake` on: every stage for real with settings of seconds, and what is said when it cannot."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from acr.confident_labels import label_shard
from acr.files import PROVENANCE, Arrays, hold, read_json
from acr.images import read_image, read_mask
from acr.predictions import predict_shard
from acr.pseudo_labels import pseudo_label_shard
from acr.seeds import seed_shard
from acr.shards import merge_maps, merge_masks
from tests.running import MARK, MICRO, ROOT, plans, short_run, snakemake


@pytest.mark.slow
def test_every_artefact_is_there_and_as_documented(run: Path) -> None:
    results = run / "results" / "micro"
    table = pd.read_csv(results / "splits" / "train.csv", keep_default_na=False)
    assert list(table.columns) == ["image_id", "image", "mask", "labels"]
    assert len(table) == 12
    for stage, recipe in (("classifiers", "acr"), ("affinities", "psa"), ("segmenters", "deeplab")):
        folder = results / stage / recipe
        names = {path.name for path in folder.iterdir()}
        assert {"model.safetensors", "model.json", "history.csv", "provenance.json"} <= names
    maps, labels = Arrays(results / "seeds/acr/maps.npz"), Arrays(results / "affinities/psa/labels.npz")
    for row in table.itertuples():
        classes = len(row.labels.split())
        assert maps[row.image_id].shape == (classes, 8, 8)
        assert maps[row.image_id].dtype == np.float16
        size = read_image(run / row.image).shape[:2]
        assert labels[row.image_id].shape == size
        assert read_mask(results / "pseudo_labels/acr" / f"{row.image_id}.png").shape == size
    assert len(list((results / "predictions/deeplab_crf/val").glob("*.png"))) == 6
    assert not list(results.rglob("*.shards")), "shards are merged and removed"


@pytest.mark.slow
def test_nothing_unfinished_is_left(run: Path) -> None:
    left = [path for path in (run / "results").rglob(".*") if path.name != MARK]
    assert left == []


@pytest.mark.slow
def test_every_artefact_says_what_made_it(run: Path) -> None:
    found = {str(path.relative_to(run)): read_json(path) for path in run.rglob(f"*{PROVENANCE}")}
    made = re.findall(r'provenance="?(?!temp)', "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")))
    # one a rule, but for the six kinds of shards; true masks and VOC's test are not made of generated scenes, and there is
    # no sweep over layers, its measurement and figure, and no cost
    assert len(made) == 18 + 3 + 4
    assert len(found) == 26
    for content in found.values():
        assert set(content) == KEYS_OF_PROVENANCE
        assert content["device"] == "cpu"
        assert content["seconds"] >= 0
        assert 50 < content["peak_memory_mb"] < 4096
    predictions = found["results/micro/predictions/deeplab_crf/val/provenance.json"]
    assert set(predictions["inputs"]) == {
        "results/micro/splits/val.csv",
        "results/micro/segmenters/deeplab/model.safetensors",
    }
    # the digest an artefact is said to have is the one that what is made of it was made from
    for content in found.values():
        for path, digest in content["inputs"].items():
            makers = [maker for maker in found.values() if path in maker["outputs"]]
            assert [maker["outputs"][path] for maker in makers] == [digest], path


KEYS_OF_PROVENANCE = {
    *("recipe", "inputs", "code", "outputs", "device", "seconds", "peak_memory_mb", "versions", "commit", "made"),
}


KEYS = {
    "dataset",
    "split",
    "stage",
    "recipe",
    "images",
    "miou",
    "iou",
    "false_positive",
    "false_negative",
    "threshold",
    "miou_fixed",
    "threshold_fixed",
    "curve",
    "crf",
    "scales",
    "provenance",
}


@pytest.mark.slow
def test_metrics_are_the_recorded_ones(run: Path) -> None:
    """A change that should not alter results shows the same numbers; other CPUs and libraries round differently."""
    golden = json.loads((ROOT / "tests" / "data" / "micro_metrics.json").read_text())
    folder = run / "results" / "micro" / "metrics"
    found = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name.endswith(PROVENANCE):
            continue
        content = read_json(path)
        assert set(content) >= KEYS
        name = str(path.relative_to(folder))
        found[name] = content["mean_average_precision" if "classifiers" in name else "miou"]
    assert found == pytest.approx(golden, abs=1.0)


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_do(run: Path) -> None:
    finished = snakemake(run, "-n")
    assert "Nothing to be done" in finished.stdout + finished.stderr


@pytest.mark.slow
def test_a_second_snakemake_is_refused_while_the_first_lives(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(run, copied)
    lock = copied / ".snakemake" / "micro.lock"
    forced = short_run(copied, "--force", "results/micro/tables/table_3.md")
    with hold(lock) as held:
        held.write("process 7 on node\n")
        held.truncate()
        held.flush()
        (refused,) = plans([forced])
    sentence = "another snakemake is at work on results/micro (process 7 on node); end it, or wait until it ends"
    assert refused["status"] == 1
    assert sentence in refused["output"].splitlines()
    (finished,) = plans([forced])
    assert finished["status"] == 0, finished["output"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_number_of_shards_leaves_no_trace(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Byte for byte, of every sharded stage; eight shards are more than there are images in val."""
    monkeypatch.chdir(run)
    results, how = Path("results/micro"), {"device": "cpu", "workers": 0}
    train, val = str(results / "splits/train.csv"), str(results / "splits/val.csv")
    maps, affinity = str(results / "seeds/acr/maps.npz"), str(results / "affinities/psa/model.safetensors")
    stages = {
        "seeds/acr": (seed_shard, train, {"model": str(results / "classifiers/acr/model.safetensors")}),
        "affinities/psa": (label_shard, train, {"maps": str(results / "seeds/acr_star/maps.npz")}),
        "pseudo_labels/acr": (pseudo_label_shard, train, {"maps": maps, "model": affinity}),
        "predictions/deeplab": (predict_shard, val, {"model": str(results / "segmenters/deeplab/model.safetensors")}),
    }
    for name, (stage, split, inputs) in stages.items():
        place = results / name / "val" if "predictions" in name else results / name
        made_from = read_json(place / PROVENANCE)
        shards = [str(tmp_path / name / f"{shard}-of-{count}.npz") for shard in range(count)]
        for shard in shards:
            given = {"recipe": json.dumps(made_from["recipe"]), "execution": how, "made_from": made_from}
            stage(split=split, **inputs, **given, shard=Path(shard).stem, output=shard)
        if name in ("seeds/acr", "affinities/psa"):
            merged = tmp_path / f"{count}.npz"
            merge_maps(split=split, shards=shards, output=str(merged))
            assert merged.read_bytes() == (place / ("maps.npz" if "seeds" in name else "labels.npz")).read_bytes()
        else:
            merge_masks(split=split, shards=shards, folder=str(tmp_path / name / "masks"))
            assert _masks(tmp_path / name / "masks") == _masks(place)


def _masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.mark.parametrize("preset", ["config.yaml", "voc12-small.yaml", "voc12.yaml", "coco14.yaml"])
def test_every_preset_plans_without_torch(tmp_path: Path, preset: str) -> None:
    finished = snakemake(tmp_path, "-n", "--quiet", config=[ROOT / "config" / preset])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    probe = "import sys; from acr.config import check; from acr.provenance import fingerprint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_a_preset_stands_alone(tmp_path: Path) -> None:
    finished = snakemake(tmp_path, "-n", config=[ROOT / "config" / "voc12.yaml"])
    assert "textures" not in finished.stdout + finished.stderr


def test_a_misspelt_key_ends_the_run_before_any_job(tmp_path: Path) -> None:
    configuration = yaml.safe_load(MICRO.read_text())
    configuration["seeds"]["acr"]["layer"] = 3
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(configuration))
    finished = snakemake(tmp_path, config=[tmp_path / "wrong.yaml"])
    output = finished.stdout + finished.stderr
    assert finished.returncode != 0
    assert "configuration: seeds.acr has no key 'layer'; did you mean 'layers'?" in output
    assert not (tmp_path / "results").exists()
