"""What the README shows first, its tree and its presets; tests/test_pages.py types its commands and follows its links."""

import re
from pathlib import Path

import pytest
import yaml

from acr import config
from tests.pages import merged

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^ {4}(\S.*)$", README, re.MULTILINE)


def tree() -> list[str]:
    """The paths of the annotated tree; two spaces of indent are one folder."""
    folders, paths = [], []
    for line in BLOCKS[""].splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        folders = [*folders[: len(indent) // 2], name]
        paths.append("".join(folders))
    return paths


def test_the_first_screen_has_the_two_commands():
    assert COMMANDS[:2] == ["make run", "make test"]
    assert "CVPR 2023" in README.split("make run")[0]


@pytest.mark.parametrize("path", [path for path in tree() if path != "results/"])
def test_the_tree_is_true(path):
    assert (ROOT / path).exists()


def test_every_preset_is_named():
    assert {path.name for path in (ROOT / "config").glob("*.yaml")} == set(re.findall(r"\(config/(\S+\.yaml)\)", README))


def test_your_own_three_lines_fit_the_preset():
    assert len(BLOCKS["yaml"].splitlines()) == 3
    preset = yaml.safe_load((ROOT / "config" / "voc12-small.yaml").read_text())
    plan = config.check(merged(preset, yaml.safe_load(BLOCKS["yaml"])))
    assert plan.data.root == "/path/to/VOCdevkit"
    assert {weights.file.rpartition("/")[0] for weights in plan.recipes["weights"].values()} == {"/path/to"}


def test_the_walk_through_ones_own_data_fits_its_preset():
    walk = (ROOT / "docs" / "own-data.md").read_text()
    mine = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", walk, re.MULTILINE | re.DOTALL)[1])
    plan = config.check(merged(yaml.safe_load((ROOT / "config" / "folder.yaml").read_text()), mine))
    assert (plan.dataset, plan.data.root, plan.data.labels) == ("mine", "photos", "labels.csv")
    assert re.search(r"^ {4}snakemake --cores all --configfile config/folder.yaml mine.yaml$", walk, re.MULTILINE)


def test_measured_numbers_have_their_place():
    assert README.count("<!-- results -->") == README.count("<!-- /results -->") == 1
