"""What the README tells people to type and open is there."""

import re
from pathlib import Path

import pytest
import yaml

from acr import config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^ {4}(\S.*)$", README, re.MULTILINE)


def merged(base: dict, over: dict) -> dict:
    """`over` laid over `base`, as snakemake merges config files."""
    both = {k: merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **over, **both}


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


def test_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z]+)`", README)) | {"run", "test"}
    assert targets == {"run", "test", "lint", "bench"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_files_exist():
    linked = re.findall(r"\]\((?!http)([^)]+)\)", README)
    given = [word for command in COMMANDS for word in command.split() if re.match(r"(config/|environment|constraints)", word)]
    assert "config/voc12-small.yaml" in given
    for path in [*linked, *given, ".ci/run", "CITATION.cff", "LICENSE"]:
        assert (ROOT / path).exists(), path


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


@pytest.mark.parametrize("page", [*ROOT.glob("docs/*.md"), ROOT / "config" / "README.md"], ids=lambda page: page.name)
def test_what_the_pages_link_to_exists(page):
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / path).exists(), path


def test_measured_numbers_have_their_place():
    assert README.count("<!-- results -->") == README.count("<!-- /results -->") == 1


def test_no_path_of_a_machine():
    assert not re.search(r"(/root|/home|/work|/tmp)/", README)
