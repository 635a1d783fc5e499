"""docs/files.md lists every file of a run, every column and every key, and nothing that is not there."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from acr import shapes
from acr.files import read_json, write_arrays, write_json
from tests.files_page import FILES, Listed, faults, files, meant
from tests.running import ROOT

EVERYWHERE = ("results", "logs", "data")
SWEEPS = {
    f"results/{{dataset}}/{path}" for path in ("layer_sweeps/{recipe}/maps.npz", "figures/{recipe}.csv", "figures/{recipe}.png")
}
MEASURED = {f"results/{{dataset}}/metrics/{stage}/{{recipe}}.{{split}}.json" for stage in ("layer_sweeps", "costs")}
# of data that is not generated; tests/test_sources.py holds such runs to the page too
OF_OTHER_DATA = {"archives.{archive}", "photographs"}


def made(run: Path) -> set[str]:
    """The patterns that the files of a run are of."""
    return {each.pattern for path in files(run, EVERYWHERE) for each in meant(path)}


@pytest.mark.slow
def test_every_file_of_a_run_is_listed_and_holds_what_the_page_says(run: Path) -> None:
    assert faults(run, EVERYWHERE) == []


@pytest.mark.slow
def test_every_file_that_is_listed_is_made_unless_it_is_marked(run: Path) -> None:
    assert made(run) == {each.pattern for each in FILES if not each.marked}


@pytest.mark.slow
def test_tables_and_figures_of_the_paper_make_further_files_that_are_listed(run: Path, ablated: Path) -> None:
    folder = ablated.parent.parent
    assert faults(folder, EVERYWHERE) == []
    assert made(folder) - made(run) == SWEEPS | MEASURED


def names_of(listed: Listed, path: Path) -> set[str]:
    """The columns of a table; the keys of a JSON, those of inner objects behind a dot."""
    content = listed.read(path)
    return set(content) if isinstance(content, pd.DataFrame) else set(pd.json_normalize(flat(content)))


def flat(content: dict) -> dict:
    """JSON in which a list of objects is the last of them."""
    return {
        key: value[-1] if isinstance(value, list) and value and isinstance(value[-1], dict) else value
        for key, value in content.items()
    }


@pytest.mark.slow
def test_what_is_said_to_be_in_some_files_is_in_some(ablated: Path) -> None:
    """Of whatever a table has, deviations and the paper's figures are of some columns only."""
    folder = ablated.parent.parent
    found: dict[Listed, set[str]] = {}
    for path in files(folder, EVERYWHERE):
        if path.endswith((".csv", ".json")):
            (listed,) = meant(path)
            found.setdefault(listed, set()).update(names_of(listed, folder / path))
    idle = {
        name.text
        for listed, names in found.items()
        for name in listed.names
        if name.optional and not name.text.endswith(("_sd", "_paper")) and not any(name.fits(each) for each in names)
    }
    assert idle == OF_OTHER_DATA


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run / "results", tmp_path / "results")
    return tmp_path / "results" / "micro"


@pytest.mark.slow
def test_whatever_is_added_without_the_page_is_a_fault(copied: Path) -> None:
    (copied / "splits" / "notes.txt").write_text("new")
    for path in ("metrics/seeds/acr.train.json", "segmenters/deeplab/model.json", "splits/provenance.json"):
        write_json(copied / path, read_json(copied / path) | {"new": 1})
    write_json(copied / "splits/source.json", {"kind": "textures", "root": 7, "generated": {"sides": 3}})
    metrics = read_json(copied / "metrics/seeds/acr_star.train.json")
    write_json(copied / "metrics/seeds/acr_star.train.json", metrics | {"miou": "16", "images": True})
    pd.DataFrame({"split": [], "image_id": [], "image": [], "why": []}).to_csv(copied / "splits/skipped.csv", index=False)
    shutil.copy(copied / "splits/classes.txt", copied / "splits/more.txt")
    write_arrays(
        copied / "seeds/acr/maps.npz", [("a", np.ones((1, 2, 2), np.float32)), ("b", np.full((1, 2, 2), 2, np.float16))]
    )
    (copied / "summary.txt").write_text("")
    found = [fault.removeprefix("results/micro/") for fault in faults(copied.parent.parent, ["results"])]
    assert found == [
        "metrics/seeds/acr.train.json: new is not listed",
        "metrics/seeds/acr_star.train.json: images is True",
        "metrics/seeds/acr_star.train.json: miou is '16'",
        "seeds/acr/maps.npz: it is float32 of shape (1, 2, 2) instead of float16 K h w",
        "seeds/acr/maps.npz: its values go from 2.0 to 2.0",
        "segmenters/deeplab/model.json: new is not listed",
        "splits/more.txt is listed 0 times",
        "splits/notes.txt is listed 0 times",
        "splits/provenance.json: new is not listed",
        "splits/skipped.csv: why is not listed",
        "splits/skipped.csv: reason is missing",
        "splits/source.json: generated.sides is not listed",
        "summary.txt: it is empty",
    ]


def test_every_rule_that_leaves_a_file_is_on_the_page() -> None:
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    rules = {name for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)*)", text, re.MULTILINE) if "output:" in body}
    shards = {name for name in rules if name.endswith("_shard")}
    assert {each.rule for each in FILES} == rules - shards | {"each"}


def test_shapes_are_in_the_letters_of_the_package() -> None:
    letters = {letter for each in FILES for _, shape, *_ in each.arrays for letter in shape.split() if not letter.isdigit()}
    assert letters == {"H", "W", "K", "L", "h", "w"}
    assert letters <= set(shapes.__doc__.split())
