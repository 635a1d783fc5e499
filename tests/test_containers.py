"""Dockerfile and apptainer.def do what the README says, and suffice; what GitHub and the catalogue read is as they ask."""

import json
import re
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.pages import commands
from tests.running import ROOT, plans, short_run

DOCKER = (ROOT / "Dockerfile").read_text()
APPTAINER = (ROOT / "apptainer.def").read_text()
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FORMS = {"bug_report", "feature", "results_differ"}


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of a kind in the Dockerfile."""
    return re.findall(rf"^{name} (.+)$", DOCKER, re.MULTILINE)


def part(name: str) -> list[str]:
    """The lines of a section of the definition, without comments."""
    lines = re.search(rf"^%{name}\n((?:    .*\n|\n)*)", APPTAINER, re.MULTILINE)[1].splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def copied() -> set[str]:
    return {path for line in instructions("COPY") for path in line.split()[:-1]}


def test_pip_installs_what_the_readme_says() -> None:
    readme = [each.text for each in commands(ROOT / "README.md") if each.text.startswith("pip install -c")]
    assert len(readme) == 2
    assert [line for line in instructions("RUN") if line.startswith("pip ")] == readme
    assert [line for line in part("post") if line.startswith("pip ")] == readme


def test_the_python_is_the_oldest_that_is_supported_and_tested() -> None:
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert instructions("FROM") == re.findall(r"^From: (.+)$", APPTAINER, re.MULTILINE) == [f"python:{oldest}-slim"]
    assert oldest in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]  # with the versions of constraints.txt


def test_both_hold_the_same_and_start_the_same() -> None:
    assert {line.split()[0]: line.split()[1] for line in part("files")} == {path: f"/acr/{path}" for path in copied()}
    assert instructions("RUN")[0] in part("post")
    entry = json.loads(instructions("ENTRYPOINT")[0])
    assert entry == ["snakemake", "--snakefile", "/acr/workflow/Snakefile"]
    assert part("runscript") == [f'exec {" ".join(entry)} "$@"']


def test_what_runs_is_not_root() -> None:
    (user,) = instructions("USER")
    lines = DOCKER.splitlines()
    assert any(line.startswith("RUN useradd ") and line.split()[-1] == "/project" and f" {user} " in line for line in lines)
    assert lines.index(f"USER {user}") > max(number for number, line in enumerate(lines) if line.startswith(("RUN", "COPY")))


def test_nothing_else_is_sent_to_docker() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied()


@pytest.mark.slow
def test_what_is_copied_exists_and_suffices_to_plan_a_run(tmp_path: Path) -> None:
    image, project = tmp_path / "acr", tmp_path / "project"
    project.mkdir()
    for path in copied():
        place = image / path
        place.parent.mkdir(exist_ok=True)
        shutil.copytree(ROOT / path, place) if (ROOT / path).is_dir() else shutil.copy(ROOT / path, place)
    entry = ["--snakefile", str(image / "workflow" / "Snakefile"), "--cores", "2", "--dry-run"]
    presets = [[], ["--configfile", str(image / "config" / "voc12.yaml")]]
    for answer in plans([{"arguments": [*entry, *p], "folder": str(project), "checkout": str(image)} for p in presets]):
        assert answer["status"] == 0, answer["output"]
        assert f"profile {image}/workflow/profiles/default" in answer["output"]


# ---- the catalogue of workflows ------------------------------------------------------------------------------------------


def test_the_catalogue_finds_what_it_asks_for() -> None:
    """https://snakemake.github.io/snakemake-workflow-catalog, "Adding workflows"."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    deployment = usage["software-stack-deployment"]
    assert deployment == {"conda": False, "apptainer": False, "apptainer+conda": False, "report": True}
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (ROOT / "workflow" / "Snakefile").is_file()
    assert (ROOT / "config" / "README.md").is_file()


@pytest.mark.slow
def test_snakemakes_own_report_holds_the_page_and_the_tables(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    (answer,) = plans([short_run(folder, "--report", "report.zip")])
    assert answer["status"] == 0, answer["output"]
    with zipfile.ZipFile(folder / "report.zip") as archive:
        held = {Path(name).name: archive.read(name) for name in archive.namelist() if "/raw/" in name}
    results = run / "results" / "micro"
    pictures = [path for name in ("train", "val", "attention/acr") for path in (results / "figures" / name).glob("*.png")]
    assert len(pictures) == 12 + 6 + 36
    pages = [results / name for name in ("report.html", "tables/table_2.csv", "tables/table_3.csv")]
    expected = [*pages, results / "figures/threshold_curves.png", *pictures]
    assert held == {path.name: path.read_bytes() for path in expected}


# ---- forms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_forms_are_as_github_reads_them(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert set(form) == {"name", "description", "labels", "body"}
    assert {each["type"] for each in form["body"]} <= {"textarea", "input"}
    names = [each["id"] for each in form["body"]]
    assert len(set(names)) == len(names)
    for each in form["body"]:
        assert set(each) <= {"type", "id", "attributes", "validations"}
        assert each["attributes"]["label"]
        assert set(each["attributes"]) <= {"label", "description", "render"}
    (asked,) = [each["attributes"]["description"] for each in form["body"] if each["id"] == "explain"]
    assert "`python -m acr explain PATH`" in asked


def test_there_is_a_form_for_each_and_a_pull_request_shows_what_numbers_came_from() -> None:
    assert {path.stem for path in TEMPLATES} == FORMS
    assert "`python -m acr explain PATH`" in (ROOT / ".github" / "pull_request_template.md").read_text()
