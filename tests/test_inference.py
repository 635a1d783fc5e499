"""Masks and maps of single photographs and of folders, held to what the pipeline makes of the same; and the two commands."""

import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from acr.__main__ import main
from acr.classifiers import predict_tags
from acr.config import canonical
from acr.datasets.base import read_split
from acr.files import Arrays, read_json, write_json
from acr.images import as_working_image, read_image, read_mask, resize_mask, upsample, write_image
from acr.inference import CRF, LIKELY, SCALES, Localiser, Predictor, Segmenter, photographs_of, predict, write_maps
from acr.overlays import SIDE, TITLE, heat_map, painted, thumbnail
from acr.predictions import predict_shard
from acr.processes import AHEAD
from acr.recipes import Execution, Predictions
from acr.segmenters import scores
from tests import pages
from tests.running import ROOT, environment

PAGE = ROOT / "docs" / "inference.md"
RECIPES = {"deeplab": (SCALES, None), "deeplab_crf": ((0.5, 1.0), CRF)}  # as tests/data/micro.yaml says
CLASSES = ["stripes", "checkers", "dots", "bricks", "waves"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scene(path: Path, random_state: int = 0, size: tuple[int, int] = (40, 56)) -> Path:
    """A photograph of coloured tiles."""
    tiles = np.random.default_rng(random_state).integers(0, 256, (5, 7, 3), np.uint8)
    write_image(path, np.kron(tiles, np.ones((8, 8, 1), np.uint8))[: size[0], : size[1]])
    return path


@pytest.fixture
def results(run: Path) -> Path:
    return run / "results" / "micro"


@pytest.fixture
def photographs(run: Path) -> dict[str, Path]:
    """Those of the reported split, by their ids."""
    records = read_split(run / "results/micro/splits/val.csv").records
    return {record.image_id: run / record.image for record in records}


# ---- masks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_files_are_those_of_the_pipeline(recipe: str, results: Path, photographs, tmp_path: Path) -> None:
    scales, crf = RECIPES[recipe]
    segmenter = Segmenter.read(results / "segmenters/deeplab", "cpu")
    assert predict(segmenter.predictor(scales, crf), photographs, tmp_path, workers=0) == []
    made = contents(results / "predictions" / recipe / "val")
    del made["provenance.json"]
    assert contents(tmp_path / "masks") == made
    assert {path.name for path in tmp_path.iterdir()} == {"masks", "areas.csv"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_of_a_run_makes_its_masks_again_wherever_the_run_lies(
    recipe: str, run: Path, photographs, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in ("segmenters", "predictions"):
        shutil.copytree(run / "results/micro" / stage, Path("moved/results/micro") / stage)
    photos = [str(photograph) for photograph in photographs.values()]
    folder = Path("moved/results/micro/predictions", recipe)
    made = contents(folder / "val")
    del made["provenance.json"]
    for model, output in ((folder, "one"), (folder / "val", "other")):
        main(["predict", *photos, "-m", str(model), "-o", output, "--device", "cpu"])
        assert contents(Path(output, "masks")) == made


def test_a_recipe_is_more_than_its_segmenter(varied: Path, run: Path, photographs, tmp_path: Path) -> None:
    """Its scales, its CRF and its weight of the background are used, not those of a command without options."""
    made = tmp_path / "results/micro"
    shutil.copytree(run / "results/micro/predictions", made / "predictions")
    shutil.copytree(varied, made / "segmenters/deeplab")
    said = made / "predictions/deeplab_crf/val/provenance.json"
    record = read_json(said)
    write_json(said, {**record, "recipe": {**record["recipe"], "background_weight": 0.25}})
    segmenter, predictor = Segmenter.read(varied, "cpu"), Predictor.read(made / "predictions/deeplab_crf", "cpu")
    for path in photographs.values():
        photograph = read_image(path)
        probabilities = scores(segmenter.network, photograph, (0.5, 1.0))
        odds = probabilities[0] / (1 - probabilities[0]) / 4
        expected = np.concatenate([[odds / (1 + odds)], probabilities[1:] / (1 - probabilities[0]) / (1 + odds)])
        np.testing.assert_allclose(predictor.score(photograph), expected, atol=1e-5)
    assert predictor.crf == CRF
    assert predictor.names == ("background", *CLASSES)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("recipe", RECIPES)
def test_masks_of_all_classes_are_those_of_the_pipeline(
    recipe: str, workers: int, varied: Path, run: Path, photographs, tmp_path: Path, monkeypatch
) -> None:
    scales, crf = RECIPES[recipe]
    monkeypatch.chdir(run)
    predict_shard(
        split="results/micro/splits/val.csv",
        model=str(varied / "model.safetensors"),
        recipe=canonical(Predictions(segmenter="", scales=scales, crf=crf)),
        execution={"device": "cpu", "workers": 0},
        shard="0-of-1",
        output=str(tmp_path / "masks.npz"),
        made_from={},
    )
    predict(Segmenter.read(varied, "cpu").predictor(scales, crf), photographs, tmp_path, overlays=True, workers=workers)
    found, masks = [], Arrays(tmp_path / "masks.npz")
    for name, path in photographs.items():
        np.testing.assert_array_equal(read_mask(tmp_path / "masks" / f"{name}.png"), masks[name])
        write_image(tmp_path / "expected.jpg", painted(read_image(path), masks[name]))
        assert (tmp_path / "overlays" / f"{name}.jpg").read_bytes() == (tmp_path / "expected.jpg").read_bytes()
        found.append(np.bincount(masks[name].ravel(), minlength=6))
    assert (np.sum(found, 0) > 0).sum() >= 4
    areas = pd.read_csv(tmp_path / "areas.csv")
    assert areas.columns.tolist() == ["image", "height", "width", "background", *CLASSES]
    assert areas["image"].tolist() == list(photographs)
    np.testing.assert_array_equal(areas[["background", *CLASSES]], found)
    assert (areas[["background", *CLASSES]].sum(axis=1) == areas["height"] * areas["width"]).all()


def test_a_large_photograph_is_seen_smaller_and_has_a_mask_of_its_size(varied: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("acr.images.LARGEST", 600)
    photograph, segmenter = read_image(scene(tmp_path / "a.png", size=(40, 30))), Segmenter.read(varied, "cpu")
    small = as_working_image(photograph)
    assert small.shape == (28, 21, 3)
    expected = resize_mask(scores(segmenter.network, small, SCALES).argmax(0).astype(np.uint8), 40, 30)
    np.testing.assert_array_equal(segmenter.mask(photograph), expected)
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize(("crf", "workers"), [(None, 0), (CRF, 0), (CRF, 1)])
def test_photographs_are_streamed(varied: Path, crf, workers: int) -> None:
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def many() -> Iterator[tuple[Path, np.ndarray]]:
        nonlocal alive, most
        for number in range(200):
            photograph = np.full((9, 9, 3), number, np.uint8)
            weakref.finalize(photograph, gone)
            alive += 1
            most = max(most, alive)
            yield Path(str(number)), photograph

    order = []
    for path, photograph, mask in Segmenter.read(varied, "cpu").predictor((1.0,), crf).masks(many(), workers):
        assert photograph[0, 0, 0] == int(path.name)
        assert mask.shape == (9, 9)
        order.append(int(path.name))
    assert order == list(range(200))
    # that under way, the one that is made meanwhile and the one that is looked at
    assert most <= AHEAD * workers + 4


# ---- photographs ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_with_all_below_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.png", "photos/trip/day 1/a.b.JPG", "photos/trip/b.tif", "photos/.hidden.png", "single.png"):
        scene(tmp_path / name)
    Path("photos/notes.txt").write_text("none")
    expected = {
        "b": Path("photos/b.png"),
        "trip/b": Path("photos/trip/b.tif"),
        "trip/day 1/a.b": Path("photos/trip/day 1/a.b.JPG"),
        "single": Path("single.png"),
    }
    assert photographs_of(["photos", "single.png"], "out") == expected
    assert photographs_of(["photos", tmp_path / "photos" / "trip", "single.png", "photos/b.png"], "out") == expected


@pytest.mark.parametrize("output", ["photos/out", "./photos/out", "{here}/photos/out", "photos", "."])
def test_what_was_made_is_no_photograph(output: str, varied: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {name: scene(Path("photos") / f"{name}.png") for name in ("a", "trip/b")}
    output = output.format(here=tmp_path)
    for _ in range(2):
        assert photographs_of(["photos"], output) == expected
        predict(Segmenter.read(varied, "cpu").predictor((1.0,)), photographs_of(["photos"], output), output, overlays=True)
    made = {str(path.relative_to(output)) for path in Path(output).rglob("*.*") if path not in expected.values()}
    overlays = {f"overlays/{name}.jpg" for name in expected}
    assert made == {"areas.csv", "masks/a.png", "masks/trip/b.png", *overlays}


def test_masks_are_not_written_over_the_photographs_they_are_of(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene(Path("masks/a.png"))
    for place in ("masks", "masks/a.png"):
        with pytest.raises(
            ValueError, match=rf"^{place}: no file there ends in \.bmp, .*, or all are in masks or overlays of \.; "
        ):
            photographs_of([place], ".")


@pytest.mark.parametrize("names", [("photos/a.png", "photos/a.jpg"), ("one/a.png", "two/a.png"), ("one/a.jpg", "a.png")])
def test_two_photographs_of_one_name_are_refused(names: tuple[str, str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [scene(Path(name)) for name in names]
    places = ["photos"] if Path("photos").exists() else paths
    first, second = sorted(names) if places == ["photos"] else names
    with pytest.raises(ValueError, match=f"^{first} and {second} would both be written to a.png; rename one of them$"):
        photographs_of(places, "out")


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("never", "never does not exist; give photographs, or folders of them"),
        ("empty", r"empty: no file there ends in \.bmp, \.jpeg, .*"),
    ],
)
def test_where_there_is_no_photograph_is_one_sentence(place: str, sentence: str, varied, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    refused(["predict", place, "-m", str(varied), "-o", "out"], sentence)
    assert not Path("out").exists()


def refused(arguments: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert re.fullmatch(f"error: {sentence}", str(ended.value.code)), ended.value.code


def test_a_damaged_photograph_is_named_and_the_others_have_masks(varied: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        scene(Path(f"photos/{name}.jpg"))
    Path("photos/b.jpg").write_bytes(Path("photos/b.jpg").read_bytes()[:300])
    Path("photos/empty.png").touch()
    command = ["-m", "acr", "predict", "photos", "-m", str(varied), "-o", "out", "--scales", "1", "--overlay", "--crf"]
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment(), check=False)
    assert ended.returncode == 1
    reasons = r"photos/b\.jpg \(.*(?i:truncated).*\), photos/empty\.png \(it is empty\)"
    last = ended.stderr.splitlines()[-1]
    assert re.fullmatch(rf"error: 2 of 4 photographs cannot be read and have no mask: {reasons}", last), ended.stderr
    assert {*contents(Path("out"))} == {"areas.csv"} | {
        f"{folder}/{name}{suffix}" for folder, suffix in (("masks", ".png"), ("overlays", ".jpg")) for name in "ac"
    }
    segmenter = Segmenter.read(varied, "cpu")
    for name in "ac":
        expected = segmenter.mask(read_image(f"photos/{name}.jpg"), (1.0,), CRF)
        np.testing.assert_array_equal(read_mask(f"out/masks/{name}.png"), expected)
    assert pd.read_csv("out/areas.csv")["image"].tolist() == ["a", "c"]


# ---- maps and tags -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "refine"), [("acr", True), ("acr_star", False)])
def test_maps_are_the_seeds_at_the_size_of_the_photograph(recipe, refine, run, results, monkeypatch) -> None:
    monkeypatch.setattr("acr.images.LARGEST", 1000)  # seeds are made of photographs as they are
    localiser = Localiser.read(results / "classifiers/acr", "cpu", layers=3, refine=refine)
    split, seeds = read_split(results / "splits/train.csv"), Arrays(results / "seeds" / recipe / "maps.npz")
    for record in split.records:
        photograph = read_image(run / record.image)
        names = [split.classes[index] for index in split.class_indices(record)]
        expected = upsample(seeds[record.image_id], *photograph.shape[:2])
        np.testing.assert_array_equal(localiser.maps(photograph, names), expected)
        np.testing.assert_array_equal(localiser.maps(photograph, names[::-1]), expected[::-1])
        assert expected.max() > 0.9


def test_tags_are_the_probabilities_of_the_pipeline_likeliest_first(run, results, monkeypatch) -> None:
    monkeypatch.chdir(run)
    split, model = read_split("results/micro/splits/val.csv"), results / "classifiers/acr"
    logits = predict_tags(split, model / "model.safetensors", Execution(device="cpu"))
    localiser = Localiser.read(model, "cpu")
    for record, row in zip(split.records, logits, strict=True):
        tags = localiser.tags(read_image(record.image))
        assert list(tags.values()) == sorted(tags.values(), reverse=True)
        assert [tags[name] for name in split.classes] == pytest.approx(expit(row), abs=1e-6)
    assert np.ptp(expit(logits)) > 1e-3


def test_a_sheet_has_the_maps_of_each_localiser(results: Path, photographs, tmp_path: Path) -> None:
    plain, refined = (Localiser.read(results / "classifiers/acr", "cpu", refine=refine) for refine in (False, True))
    photograph = read_image(photographs["val_0001"])
    write_maps({"unrefined": plain, "refined": refined}, photograph, ["dots", "bricks"], tmp_path / "maps.png")
    drawn = read_image(tmp_path / "maps.png")
    both = [each.maps(photograph, ["dots", "bricks"]) for each in (plain, refined)]
    maps = [heat_map(photograph, each[number]) for number in range(2) for each in both]
    expected = [thumbnail(photograph), *maps]
    assert drawn.shape == (SIDE + TITLE, 5 * (SIDE + 6) - 6, 3)
    for place, picture in enumerate(expected):
        left = place * (SIDE + 6)
        np.testing.assert_array_equal(drawn[TITLE:, left : left + SIDE], picture)
    assert np.abs(maps[0].astype(int) - maps[1]).max() > 20


@pytest.mark.parametrize("given", [[], ["--classes", "waves", "dots"]])
def test_the_command_prints_tags_and_draws_maps(given: list[str], results, photographs, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    path, model = photographs["val_0000"], results / "classifiers/acr"
    main(["localize", str(path), "-m", str(model), "--device", "cpu", *given])
    refined = Localiser.read(model, "cpu")
    tags = refined.tags(read_image(path))
    likely = [name for name, probability in tags.items() if probability >= LIKELY]
    assert capsys.readouterr().out == "".join(f"{tags[name]:.2f} {name}\n" for name in likely)
    names = given[1:] or likely or list(tags)[:1]
    both = {"unrefined": Localiser.read(model, "cpu", refine=False), "refined": refined}
    write_maps(both, read_image(path), names, "expected.png")
    np.testing.assert_array_equal(read_image("maps.png"), read_image("expected.png"))


# ---- what is refused -----------------------------------------------------------------------------------------------------


def test_an_unknown_class_gets_the_nearest(results: Path, photographs, tmp_path: Path) -> None:
    command = ["localize", str(photographs["val_0000"]), "-m", str(results / "classifiers/acr"), "-o", str(tmp_path / "a.png")]
    refused([*command, "--classes", "dots", "brick"], "'brick' is no class of this classifier; did you mean 'bricks'[?]")
    with pytest.raises(ValueError, match=r"^no class is named; it must be one of stripes, checkers, dots, bricks, waves$"):
        Localiser.read(results / "classifiers/acr").maps(np.zeros((8, 8, 3), np.uint8), [])
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(("command", "kind"), [("predict", "segmenter"), ("localize", "classifier")])
def test_a_folder_of_no_such_network_is_one_sentence(command: str, kind: str, results, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene(Path("a.png"))
    place = f"give a folder such as results/NAME/{kind}s/RECIPE"
    other = results / {"segmenter": "classifiers/acr", "classifier": "affinities/psa"}[kind]
    Path("half").mkdir()
    Path("half/model.json").write_text("{}")
    for folder, sentence in {
        "never": f"never holds no model.json; {place}",
        "half": f"half holds no model.safetensors; {place}",
        str(
            other
        ): f"{other} holds a network of kind {read_json(other / 'model.json')['kind']}, but a {kind} is wanted; {place}",
    }.items():
        refused([command, "a.png", "-m", folder, "-o", "out.png"], sentence)


def test_predictions_without_what_they_were_made_from_are_one_sentence(results: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene(Path("a.png"))
    made = Path("results/micro/predictions/deeplab")
    shutil.copytree(results / "predictions/deeplab", made)
    command = ["predict", "a.png", "-o", "out", "-m"]
    lost = tmp_path / "results/micro/segmenters/deeplab/model.safetensors"
    refused([*command, str(made)], f"{made} was made from {lost}, which is not there; keep the folders of a run together")
    refused([*command, "results/micro/predictions"], "results/micro/predictions holds no model.json; give a folder such as .*")
    nothing = "results/micro/predictions/never"
    refused([*command, nothing], f"{nothing} holds no predictions; give a folder such as results/NAME/predictions/RECIPE")
    for option in (["--scales", "1"], ["--crf"]):
        refused([*command, str(made), *option], f"--scales and --crf are for segmenters; leave them out, {made} has its own")
    with pytest.raises(ValueError, match=r"acr holds no predictions; give a folder such as results/NAME/predictions/RECIPE$"):
        Predictor.read(results / "seeds/acr")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scales", "1", "0"], r"predict\.scales\[1\] is 0\.0, but must be positive"),
        (
            ["--device", "gpu"],
            r"execution\.device is 'gpu', but must be auto, cpu, cuda, or one of several GPUs such as cuda:1",
        ),
    ],
)
def test_impossible_options_are_one_sentence(options, sentence: str, varied: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene(Path("a.png"))
    refused(["predict", "a.png", "-m", str(varied), "-o", "out", *options], sentence)
    assert not Path("out").exists()


def test_a_misspelt_field_of_the_recipe_gets_the_nearest(results: Path) -> None:
    with pytest.raises(ValueError, match=r"^seeds has no key 'refined'; did you mean 'refine'\?$"):
        Localiser.read(results / "classifiers/acr", "cpu", refined=False)


# ---- the page ------------------------------------------------------------------------------------------------------------


def test_what_the_page_calls_in_python_works(run: Path, results: Path, varied: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/textures").symlink_to(results)
    photograph = read_image(scene(Path("photo.jpg")))
    codes = pages.codes(PAGE, "python")
    assert [len([*filter(None, code.splitlines())]) for code in codes] == [3, 3]
    found: dict = {}
    for code in codes:
        exec(code, found)
    np.testing.assert_array_equal(found["mask"], Segmenter.read(results / "segmenters/deeplab").mask(photograph))
    np.testing.assert_array_equal(found["maps"], Localiser.read(results / "classifiers/acr").maps(photograph, ["stripes"]))
    # the same call with a network that sees something
    exec(codes[0].replace("results/textures/segmenters/deeplab", str(varied)), found)
    assert found["mask"].shape == photograph.shape[:2]
    assert len(np.unique(found["mask"])) > 1
