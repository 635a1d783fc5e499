"""The workflow from `snakemake` on: every stage for real with settings of seconds, and what is said when it cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from acr.files import Arrays, read_json
from acr.images import read_image, read_mask

ROOT = Path(__file__).parent.parent
MICRO = ROOT / "tests" / "data" / "micro.yaml"


def snakemake(folder: Path, *arguments: str, config: Path = MICRO, threads: int | None = 1) -> subprocess.CompletedProcess:
    """Runs snakemake of this environment in `folder`, the workflow being this checkout's; None leaves torch all threads."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflow" / "Snakefile"), "--directory", str(folder)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    options = ["--configfile", str(config), "--cores", "2", *arguments]
    return subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished micro run."""
    folder = tmp_path_factory.mktemp("micro")
    finished = snakemake(folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "report: results/micro/report.html" in finished.stdout + finished.stderr
    return folder


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
        assert {"recipe", "inputs", "versions", "commit"} == set(read_json(folder / "provenance.json"))
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
    assert not list(results.rglob("*.checkpoint"))


@pytest.mark.slow
def test_no_file_is_half_written(run: Path) -> None:
    assert [path for path in (run / "results").rglob(".*") if path.name != ".snakemake_timestamp"] == []


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
def test_how_it_is_run_changes_nothing(run: Path, tmp_path: Path) -> None:
    configuration = yaml.safe_load(MICRO.read_text())
    configuration["execution"] = {"device": "auto", "workers": 1, "shards": 3}
    reordered = tmp_path / "other.yaml"
    reordered.write_text("# a comment\n" + yaml.safe_dump(dict(reversed(configuration.items()))))
    finished = snakemake(run, "-n", config=reordered)
    assert "Nothing to be done" in finished.stdout + finished.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "recipe", "key", "value", "again", "kept"),
    [
        ("classifiers", "acr", "affinity", 11, {"classifier", "seed_shard", "affinity", "segmenter", "report"}, {"splits"}),
        ("pseudo_labels", "acr", "exponent", 4, {"pseudo_label_shard", "segmenter", "report"}, {"classifier", "affinity"}),
        ("predictions", "deeplab", "scales", [1.0], {"prediction_shard", "report"}, {"segmenter", "pseudo_label_shard"}),
    ],
)
def test_a_changed_key_runs_what_depends_on_it(
    run: Path, tmp_path: Path, section: str, recipe: str, key: str, value: object, again: set[str], kept: set[str]
) -> None:
    configuration = yaml.safe_load(MICRO.read_text())
    configuration[section][recipe][key] = value
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(configuration))
    finished = snakemake(run, "-n", "--quiet", "rules", config=tmp_path / "changed.yaml")
    planned = {line.split()[0] for line in (finished.stdout + finished.stderr).splitlines() if len(line.split()) == 2}
    assert again <= planned
    assert not kept & planned


@pytest.mark.slow
def test_three_shards_give_the_bytes_of_one(run: Path, tmp_path: Path) -> None:
    configuration = yaml.safe_load(MICRO.read_text())
    configuration["execution"]["shards"] = 3
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(configuration))
    results = Path("results") / "micro"
    wanted = [results / "seeds/acr/maps.npz", results / "affinities/psa/labels.npz", results / "pseudo_labels/acr"]
    before = [_bytes(run / path) for path in wanted]
    finished = snakemake(run, "--force", *map(str, wanted), config=tmp_path / "three.yaml")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert [_bytes(run / path) for path in wanted] == before


def _bytes(path: Path) -> list[bytes]:
    return [item.read_bytes() for item in (sorted(path.glob("*.png")) if path.is_dir() else [path])]


@pytest.mark.parametrize("preset", ["config.yaml", "voc12-small.yaml", "voc12.yaml", "coco14.yaml"])
def test_every_preset_plans_without_torch(tmp_path: Path, preset: str) -> None:
    finished = snakemake(tmp_path, "-n", "--quiet", config=ROOT / "config" / preset)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    probe = "import sys; from acr.config import check; from acr.provenance import fingerprint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_a_preset_stands_alone(tmp_path: Path) -> None:
    finished = snakemake(tmp_path, "-n", config=ROOT / "config" / "voc12.yaml")
    assert "textures" not in finished.stdout + finished.stderr


def test_a_misspelt_key_ends_the_run_before_any_job(tmp_path: Path) -> None:
    configuration = yaml.safe_load(MICRO.read_text())
    configuration["seeds"]["acr"]["layer"] = 3
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(configuration))
    finished = snakemake(tmp_path, config=tmp_path / "wrong.yaml")
    output = finished.stdout + finished.stderr
    assert finished.returncode != 0
    assert "configuration: seeds.acr has no key 'layer'; did you mean 'layers'?" in output
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_an_unreadable_image_is_one_sentence_on_the_screen_and_in_the_log(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(run), str(copied)], check=True)
    photograph = next((copied / "data/micro/images").glob("train_*.png"))
    photograph.write_bytes(b"no picture at all")
    finished = snakemake(copied, "--force", "results/micro/splits/train.csv")
    output = finished.stdout + finished.stderr
    assert finished.returncode != 0
    assert photograph.name in output
    assert "Traceback" not in output.split("error: ")[1].split("\n")[0]
