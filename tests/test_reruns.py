"""What a change re-runs: dry runs over a finished pipeline, against the graph of its jobs and what Python really loads."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from acr import recipes
from acr.config import canonical, check
from tests.running import MICRO, ROOT, dry_run, environment, plans, snakemake

pytestmark = pytest.mark.slow

# the recipe of each section that is changed, and the rules that have a recipe of that section as their own
CHANGED = {
    "datasets": ("micro", {"dataset", "splits"}),
    "weights": ("net", {"weights"}),
    "classifiers": ("acr", {"classifier", "measure_classifier"}),
    "seeds": ("acr_star", {"seed_shard", "seeds", "measure_seeds"}),
    "affinities": ("psa", {"confident_label_shard", "confident_labels", "affinity"}),
    "pseudo_labels": ("acr", {"pseudo_label_shard", "pseudo_labels", "measure_pseudo_labels"}),
    "segmenters": ("deeplab", {"segmenter"}),
    "predictions": ("deeplab_crf", {"prediction_shard", "predictions", "measure_predictions"}),
    "layer_sweeps": ("figure_8", {"layer_sweep_shard", "layer_sweep", "measure_layer_sweep", "layer_figure"}),
    "costs": ("here", {"measure_cost"}),
    "tables": ("table_2", {"table"}),
}
# rules whose own recipe holds those of other sections: what a sweep is made of, and what a cost is the cost of
HELD = {"seeds": {*CHANGED["layer_sweeps"][1], "measure_cost"}, "classifiers": {"measure_cost"}}
# values of keys that a rule of type cannot make up
VALUES = {
    "datasets.root": "data/other",
    "datasets.train": "learn",
    "datasets.val": "test",
    "weights.model": "resnet18",
    "weights.file": "other.safetensors",
    "weights.options": {"stem_width": 16},
    "classifiers.backbone": "test_vit",
    "classifiers.weights": "net",
    "classifiers.long_side": [0.5, 1.0],
    "classifiers.augmentations": ["vflip"],
    "classifiers.views": ["vflip"],
    "classifiers.standardisation_epsilon": 1e-5,
    "seeds.classifier": "untrained",
    "seeds.method": "cam",
    "seeds.affinity_layers": [0],
    "seeds.scales": [0.5],
    "layer_sweeps.seeds": "acr",
    "costs.seeds": "acr",
    "costs.backbone": "test_vit",
    "costs.image_size": 32,
    "affinities.seeds": "acr",
    "affinities.backbone": "resnet18",
    "affinities.weights": "net",
    "affinities.options": {"stem_width": 16},
    "pseudo_labels.seeds": "acr_star",
    "pseudo_labels.affinity": None,
    "pseudo_labels.background": 0.5,
    "pseudo_labels.pixels": {},
    "pseudo_labels.crf": {},
    "pseudo_labels.segmenter": "second",
    "pseudo_labels.segmenter_scales": [0.25],
    "segmenters.labels": "other",
    "segmenters.classifier": "untrained",
    "segmenters.backbone": "resnet18",
    "segmenters.weights": None,
    "segmenters.options": {"stem_width": 16},
    "segmenters.dilations": [1],
    "segmenters.crop_scales": [0.5],
    "segmenters.augmentations": ["vflip"],
    "segmenters.loss_scales": [0.25],
    "predictions.segmenter": "other",
    "predictions.scales": [0.25],
    "predictions.labels": "other",
    "predictions.found": 0.5,
    "tables.rows": [{"name": "ACR", "seeds": "acr"}],
    "training.steps": 7,
    "training.clip_norm": 3.0,
    "training.precision": "bfloat16",
}


class Job(NamedTuple):
    rule: str
    recipe: str


class Planned(NamedTuple):
    inputs: frozenset[str]
    outputs: frozenset[str]
    reason: str


def planned(output: str) -> dict[Job, Planned]:
    """The jobs of a dry run but for `all`; shards of one artefact, and measurements on several splits, count as one."""
    jobs: dict[Job, Planned] = {}
    for text in re.findall(r"^(?:local)?rule (.+?)(?=^\[|^Job stats|\Z)", output, re.MULTILINE | re.DOTALL):
        rule, *lines = text.splitlines()
        fields = dict(line.strip().split(": ", 1) for line in lines if re.match(r"    [a-z]+: ", line))
        recipe = re.search(r"recipe=(\w+)", fields.get("wildcards", ""))
        files = (frozenset(fields.get(key, "").split(", ")) - {""} for key in ("input", "output"))
        jobs[Job(rule.rstrip(":"), recipe.group(1) if recipe else "")] = Planned(*files, fields.get("reason", ""))
    jobs.pop(Job("all", ""), None)
    return jobs


def downstream(graph: dict[Job, Planned], roots: set[Job]) -> set[Job]:
    """The roots and all that is made, directly or not, from what they make; shards, which are not kept, for each merge."""
    found = set(roots)
    while True:
        files = {file for job in found for file in graph[job].outputs}
        shards = {file for job in found for file in graph[job].inputs if "shards/" in file}
        more = {job for job, plan in graph.items() if plan.inputs & files or plan.outputs & shards} - found
        if not more:
            return found
        found |= more


@pytest.fixture(scope="module")
def finished(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of every kind of recipe: the micro run, said to have begun from weights and to have second recipes."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(run, folder, dirs_exist_ok=True)
    configuration = yaml.safe_load(MICRO.read_text())
    configuration["layer_sweeps"] = {"figure_8": {"seeds": "acr_star"}}
    configuration["costs"] = {"here": {"seeds": "acr_star", "training_steps": 1, "images": 1}}
    configuration["tables"]["table_9"] = {"rows": [{"name": "ACR", "cost": "here"}]}
    made = snakemake(folder, "--", "figure_8", "table_9", config=[write(folder / "more.yaml", configuration)])
    assert made.returncode == 0, made.stdout + made.stderr
    configuration["weights"] = {"net": {"model": "resnet10t", "file": "net.safetensors"}}
    configuration["segmenters"]["deeplab"]["weights"] = "net"
    # targets of changed references
    configuration["pseudo_labels"]["other"] = configuration["pseudo_labels"]["acr"] | {}
    configuration["segmenters"]["other"] = configuration["segmenters"]["deeplab"] | {}
    configuration["segmenters"]["second"] = configuration["segmenters"]["deeplab"] | {"labels": "other"}
    results = folder / "results" / "micro"
    shutil.copytree(results / "pseudo_labels" / "acr", results / "pseudo_labels" / "other")
    for name in ("other", "second"):
        shutil.copytree(results / "segmenters" / "deeplab", results / "segmenters" / name)
    for file in results.glob("metrics/pseudo_labels/acr.*"):
        shutil.copy(file, file.with_name(file.name.replace("acr", "other")))
    (folder / "data" / "weights").mkdir()
    for name in ("net.safetensors", "other.safetensors", "data/weights/net.safetensors", "data/weights/net.provenance.json"):
        (folder / name).touch()
    # written out in full, so that no recipe inherits what is changed in another
    for section, named in check(configuration).recipes.items():
        configuration[section] = {name: json.loads(canonical(recipe)) for name, recipe in named.items()}
    write(folder / "finished.yaml", configuration)
    touched = snakemake(folder, "--touch", "--forceall", config=[folder / "finished.yaml"])
    assert touched.returncode == 0, touched.stdout + touched.stderr
    return folder


@pytest.fixture(scope="module")
def base(finished: Path) -> dict:
    """The configuration of the finished run."""
    return yaml.safe_load((finished / "finished.yaml").read_text())


@pytest.fixture(scope="module")
def graph(finished: Path) -> dict[Job, Planned]:
    """All jobs of the finished run, with what they read and write."""
    (answer,) = plans([dry_run(finished, "--forceall", config=[finished / "finished.yaml"])])
    return planned(answer["output"])


def write(path: Path, configuration: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(configuration, sort_keys=False))
    return path


def planned_after(finished: Path, folder: Path, configurations: dict[str, dict]) -> dict[str, dict[Job, Planned]]:
    """What each configuration would run over the finished run."""
    files = [write(folder / f"{number}.yaml", changed) for number, changed in enumerate(configurations.values())]
    answers = plans([dry_run(finished, config=[file]) for file in files])
    for name, answer in zip(configurations, answers, strict=True):
        assert answer["status"] == 0, f"{name}: {answer['output']}"
    return {name: planned(answer["output"]) for name, answer in zip(configurations, answers, strict=True)}


# ---- every key of every recipe -------------------------------------------------------------------------------------------


def set_by_users(recipe: Any) -> list[dataclasses.Field]:
    """The fields of a recipe, but for those that planning fills in from others."""
    return [item for item in dataclasses.fields(recipe) if "filled_in" not in item.metadata]


def keys(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key of a recipe and of the recipes inside it, with its value."""
    for item in set_by_users(value):
        inner = getattr(value, item.name)
        if dataclasses.is_dataclass(inner):
            yield from keys(inner, (*path, item.name))
        else:
            yield (*path, item.name), inner


def another(section: str, path: tuple[str, ...], value: Any, kind: type) -> Any:
    """A valid value of a key that is not the one it has."""
    for name in (f"{section}.{'.'.join(path)}", ".".join(path)):
        if name in VALUES:
            return VALUES[name]
    hint = kind.__dataclass_fields__[path[-1]].type
    options = getattr(hint, "__args__", ())
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next(option for option in options if option != value)
    assert isinstance(value, int | float), f"no other value is known for {section}.{'.'.join(path)}"
    return value + 1


def changed_keys(base: dict) -> Iterator[tuple[str, str, dict]]:
    """Section, dotted key and configuration of every key of every recipe dataclass, changed alone."""
    plan = check(base)
    for section, (name, _) in CHANGED.items():
        recipe = plan.data if section == "datasets" else plan.recipe(section, name)
        for path, value in keys(recipe, ()):
            configuration = json.loads(json.dumps(base))
            place, kind = configuration[section][name], type(recipe)
            if path == ("kind",):
                configuration[section][name] = {"kind": "voc12", "root": "data/micro", "train": "train", "val": "val"}
            else:
                for key in path[:-1]:
                    place, kind = place.setdefault(key, {}), type(getattr(kind, key, None) or _inner(kind, key))
                place[path[-1]] = another(section, path, value, kind)
            if (section, path) == ("seeds", ("method",)):  # no longer one that can be swept; the sweep runs again in any case
                configuration["layer_sweeps"]["figure_8"]["seeds"] = "acr"
            if (section, path) == ("segmenters", ("classifier",)):
                place["weights"] = None  # which it takes the place of
            yield section, ".".join(path), configuration


def _inner(kind: type, key: str) -> Any:
    return next(item.default for item in dataclasses.fields(kind) if item.name == key)


def expected_after(graph: dict[Job, Planned], section: str, key: str) -> set[Job]:
    name, rules = CHANGED[section]
    if section == "affinities" and key.split(".")[0] not in ("seeds", "labels"):
        rules = {"affinity"}  # confident labels are made of these two alone
    roots = {job for job in graph if job.rule in rules and job.recipe in ("", name)}
    if key != "layers":  # a sweep has them all
        roots |= {job for job in graph if job.rule in HELD.get(section, ())}
    elif section == "seeds":
        roots |= {job for job in graph if job.rule == "measure_cost"}
    if section == "weights" and key in ("normalisation", "options"):
        roots |= {job for job in graph if job.rule == "segmenter"}  # what starts from weights is built as they require
    expected = downstream(graph, roots)
    if (section, key) == ("pseudo_labels", "segmenter"):  # shards that a segmenter has a say in are made by another rule
        expected = {Job("self_label_shard", job.recipe) if job.rule == "pseudo_label_shard" else job for job in expected}
    return expected


def test_every_key_of_every_recipe_re_runs_what_is_made_of_it(
    finished: Path, base: dict, graph: dict[Job, Planned], tmp_path: Path
) -> None:
    changes = {f"{section}.{key}": (section, key, changed) for section, key, changed in changed_keys(base)}
    found = planned_after(finished, tmp_path, {name: changed for name, (_, _, changed) in changes.items()})
    wrong = {}
    for name, (section, key, _) in changes.items():
        expected = expected_after(graph, section, key)
        if set(found[name]) != expected:
            wrong[name] = {"too many": set(found[name]) - expected, "too few": expected - set(found[name])}
    assert not wrong
    print(f"{len(changes)} keys x {len({job.rule for job in graph})} rules")  # noqa: T201
    for section, kind in [*recipes.SECTIONS.items(), ("datasets", type(check(base).data))]:
        for item in set_by_users(kind):
            assert any(name.startswith(f"{section}.{item.name}") for name in changes), f"{section}.{item.name} was not tried"


def test_the_reason_names_the_change(finished: Path, base: dict, tmp_path: Path) -> None:
    changed = json.loads(json.dumps(base))
    changed["pseudo_labels"]["acr"]["exponent"] = 4
    found = planned_after(finished, tmp_path, {"exponent": changed})["exponent"]
    reason = found[Job("pseudo_label_shard", "acr")].reason
    before, now = reason.split("before: ")[1].split(" now: ")
    assert '"exponent": 8.0' in before
    assert '"exponent": 4.0' in now


def test_two_swapped_values_are_seen(finished: Path, base: dict, graph: dict[Job, Planned], tmp_path: Path) -> None:
    recipe = base["pseudo_labels"]["acr"]
    swapped = {**base, "pseudo_labels": {**base["pseudo_labels"], "acr": {**recipe, "exponent": 16, "walk_steps": 8}}}
    found = planned_after(finished, tmp_path, {"swapped": swapped})["swapped"]
    assert set(found) == expected_after(graph, "pseudo_labels", "exponent")


# ---- what changes no result ----------------------------------------------------------------------------------------------


def test_how_it_is_run_re_runs_nothing(finished: Path, base: dict, tmp_path: Path) -> None:
    ways = [
        {"shards": 3},
        {"shards": 8},
        {"threads": 2},
        {"batch": 4},
        {"workers": 2},
        {"device": "auto"},
        {"device": "cuda:1"},
        {"processes": 2},
        {"checkpoint_seconds": 0},
        {"mirrors": ["elsewhere"]},
    ]
    changed = {str(way): {**base, "execution": {**base["execution"], **way}} for way in ways}
    tried = {key for way in ways for key in way}
    assert tried == {item.name for item in dataclasses.fields(recipes.Execution)}
    assert planned_after(finished, tmp_path, changed) == {name: {} for name in changed}


def test_the_order_of_keys_and_comments_re_run_nothing(finished: Path, base: dict, tmp_path: Path) -> None:
    def reverse(value: Any) -> Any:
        return {key: reverse(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    file = write(tmp_path / "reversed.yaml", reverse(base))
    file.write_text(f"# a comment\n{file.read_text()}# another\n")
    (answer,) = plans([dry_run(finished, config=[file])])
    assert "Nothing to be done" in answer["output"]


def test_dates_re_run_nothing(finished: Path, tmp_path: Path) -> None:
    """Every file is touched, images are written again with the same bytes, and the checkout is a fresh clone."""
    folder, clone = tmp_path / "copy", tmp_path / "clone"
    shutil.copytree(finished, folder)
    checkout(clone)
    for path in (*sorted(folder.rglob("*"), reverse=True), *clone.rglob("*")):
        path.touch()
    for image in (folder / "data" / "micro" / "images").iterdir():
        image.write_bytes(image.read_bytes())
    (answer,) = plans([dry_run(folder, config=[folder / "finished.yaml"], checkout=clone)])
    assert "Nothing to be done" in answer["output"]


# ---- recipes that come and go --------------------------------------------------------------------------------------------


def test_a_new_recipe_is_all_that_is_computed(finished: Path, base: dict, tmp_path: Path) -> None:
    more = {**base, "seeds": {**base["seeds"], "more": {"extends": "acr", "layers": 2}}}
    found = planned_after(finished, tmp_path, {"more": more})["more"]
    own = {Job(rule, "more") for rule in ("seed_shard", "seeds", "measure_seeds")}
    assert set(found) == own | {Job("figures", ""), Job("report", "")}


def test_a_recipe_taken_out_leaves_the_report(finished: Path, base: dict, tmp_path: Path) -> None:
    fewer = {**base, "seeds": {name: recipe for name, recipe in base["seeds"].items() if name != "untrained"}}
    found = planned_after(finished, tmp_path, {"fewer": fewer})["fewer"]
    assert set(found) == {Job("figures", ""), Job("report", "")}


# ---- code ----------------------------------------------------------------------------------------------------------------

MODULES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "acr").rglob("*.py"))


def checkout(folder: Path) -> Path:
    """A copy of what a run needs of this checkout."""
    for name in ("acr", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def scripts_of_rules() -> dict[str, str]:
    """The script of each rule."""
    text = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    return dict(re.findall(r"^rule (\w+):(?:(?!^rule ).)*?scripts/(\w+\.py)", text, re.MULTILINE | re.DOTALL))


# rules that the run does not need: masks of scenes are not drawn, no server has their test split, and nobody trains itself
ELSEWHERE = {"true_mask_shard", "true_masks", "test_split", "submission", "self_label_shard"}


def loaded_by_scripts() -> dict[str, list[str]]:
    """What each script loads, but for other kinds of data sets than that of the run, which are never run, and their own."""
    idle = [f"acr.datasets.{kind}" for kind in recipes.DATASETS if kind != "textures"]
    command = [sys.executable, str(ROOT / "tests" / "imports.py"), *idle]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout)


def test_an_edited_module_re_runs_what_imports_it(finished: Path, graph: dict[Job, Planned], tmp_path: Path) -> None:
    scripts, loaded = scripts_of_rules(), loaded_by_scripts()
    assert {job.rule for job in graph} == set(scripts) - ELSEWHERE
    runs = []
    for module in MODULES:
        copy = checkout(tmp_path / module.replace("/", "."))
        with (copy / module).open("a") as file:
            file.write("\n_edited = 1\n")
        runs.append(dry_run(finished, config=[finished / "finished.yaml"], checkout=copy))
    wrong = {}
    for module, answer in zip(MODULES, plans(runs), strict=True):
        name = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        expected = downstream(graph, {job for job in graph if name in loaded[scripts[job.rule]]})
        found = set(planned(answer["output"]))
        if answer["status"] or found != expected:
            wrong[module] = {"too many": found - expected, "too few": expected - found, "status": answer["status"]}
    assert not wrong
    assert all(any(name.startswith("acr.") for name in names) for names in loaded.values())


def test_edited_comments_and_docstrings_re_run_nothing(finished: Path, tmp_path: Path) -> None:
    copy = checkout(tmp_path / "copy")
    for path in (copy / "acr").rglob("*.py"):
        path.write_text(re.sub(r'^( *""")(?=[A-Z])', r"\1Edited. ", path.read_text(), flags=re.MULTILINE) + "# edited\n")
    (answer,) = plans([dry_run(finished, config=[finished / "finished.yaml"], checkout=copy)])
    assert "Nothing to be done" in answer["output"]


def test_an_edited_script_re_runs_its_rules(finished: Path, graph: dict[Job, Planned], tmp_path: Path) -> None:
    copy = checkout(tmp_path / "copy")
    script = copy / "workflow" / "scripts" / "measure_masks.py"
    script.write_text(script.read_text() + "edited = 1\n")
    (answer,) = plans([dry_run(finished, config=[finished / "finished.yaml"], checkout=copy)])
    measured = {job for job in graph if job.rule in ("measure_pseudo_labels", "measure_predictions")}
    assert set(planned(answer["output"])) == downstream(graph, measured)
    reason = planned(answer["output"])[Job("measure_predictions", "deeplab")].reason
    assert "code of measure_masks.py" in reason
