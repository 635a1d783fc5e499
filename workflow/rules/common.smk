# The checked configuration, and how a rule gets its recipe, its upstream files and its code. Functions only.
import functools
import json
import logging
import os
import platform
import re
import sys
from dataclasses import asdict, fields, replace

from snakemake.exceptions import WorkflowError

from acr.config import canonical, check
from acr.files import check_room, glance, hold, outline, sweep
from acr.provenance import fingerprint
from acr.recipes import DATASETS, MEASURED, PHOTOGRAPHS, WHOLE

try:
    PLAN = check(config)
except ValueError as error:
    raise WorkflowError(f"configuration: {error}")

RESULTS = Path("results") / PLAN.dataset

# What snakemake is asked to do is not known to it yet; looking needs no room on the disk.
LOOKING = ("--dry", "--summary", "--detailed-summary", "--report", "--lint", "--list", "--dag", "--rulegraph", "--filegraph")
if not any(word.startswith(LOOKING) or re.fullmatch("-[a-zA-Z]*n[a-zA-Z]*", word) for word in sys.argv[1:]):
    logging.raiseExceptions = False  # a disk that fills up says one sentence, not one a message
    try:
        check_room(RESULTS)
    except ValueError as error:
        raise WorkflowError(str(error))

# Scripts read how to run from the configuration, since a parameter would be compared between runs.
config["execution"] = asdict(PLAN.execution)

SHARDS = [f"{shard}-of-{PLAN.execution.shards}" for shard in range(PLAN.execution.shards)]


wildcard_constraints:
    dataset=PLAN.dataset,
    recipe="[^/.]+",
    split="[^/.]+",
    shard="[0-9]+-of-[0-9]+",


def alone():
    """The lock of the data set, held until this snakemake ends in whatever way; refused where another one has it."""
    path = Path(".snakemake") / f"{PLAN.dataset}.lock"
    held = hold(path)
    if held is None:
        owner = path.read_text().strip()
        raise WorkflowError(f"another snakemake is at work on {RESULTS} ({owner}); end it, or wait until it ends")
    if held.writable():
        held.write(f"process {os.getpid()} on {platform.node()}\n")
        held.truncate()
        held.flush()
    return held


def recipe(section, *keys):
    """A params function: the canonical recipe that the wildcard names, or some keys of it."""

    def text(wildcards):
        return canonical(PLAN.recipe(section, wildcards.recipe), *keys)

    return text


def code(script, made_of=None):
    """A params function: what a script can compute, which changes with the code that it reaches, not with dates or comments.

    Of extensions those count whose names are in what `made_of`, a params function, gives: the canonical recipe of a job that
    looks up views, methods, data sets or backbones. It is a function so that a job reads its own script's code, not all.
    """

    def text(wildcards):
        return code_of(script, tuple(PLAN.extensions_of(made_of(wildcards))) if made_of else ())

    return text


@functools.cache
def code_of(script, extensions):
    """The fingerprint of a script with its extensions; code of other kinds of data sets is reached and never run."""
    others = [f"acr.datasets.{kind}" for kind in DATASETS if kind != PLAN.data.kind]
    return fingerprint(Path(workflow.basedir) / "scripts" / script, others, extensions)


# Snakemake compares files of up to a megabyte by their bytes and larger ones by their dates. So what is compared is the
# small provenance.json that is written last beside each artefact and holds its digest (inputs named *_made); the large
# files themselves only have to exist (ancient).
SPLITS_MADE = "results/{dataset}/splits/provenance.json"
TEST_MADE = "results/{dataset}/splits/test.provenance.json"  # of VOC's test, which is no split of the recipe


def data_recipe(wildcards):
    """All that decides a data set."""
    return canonical(PLAN.data)


def named(section, keys, name):
    """The recipe that keys such as `labels.seeds`, each naming the next one, lead to from a recipe; None where one is null."""
    for key in keys.split("."):
        recipe = PLAN.recipe(section, name)
        name = getattr(recipe, key)
        if name is None:
            return None
        section = next(item.metadata["section"] for item in fields(recipe) if item.name == key)
    return name


def upstream(section, keys, path):
    """An input function: the file of the recipe that `keys` lead to from this rule's recipe; no file where one is null."""

    def files(wildcards):
        name = named(section, keys, wildcards.recipe)
        return [] if name is None else path.format(dataset=wildcards.dataset, name=name)

    return files


def one_of(names):
    """A regular expression of these names alone; of none, one that nothing matches."""
    return "|".join(map(re.escape, names)) or "(?!)"


def growing(amount):
    """A resources function: `amount` at first, and as much again at every retry of a job that may have lacked it."""

    def needed(wildcards, attempt):
        return amount * attempt

    return needed


def split(role):
    """The table of images of a role, train or val."""
    return f"results/{{dataset}}/splits/{getattr(PLAN.data, role)}.csv"


def made(section, path):
    """The file of every recipe of a section."""
    return [path.format(dataset=PLAN.dataset, name=name) for name in sorted(PLAN.recipes[section])]


def weights_file(wildcards):
    """The local file of a recipe of weights; none where they come from the hub."""
    file = PLAN.recipe("weights", wildcards.recipe).file
    return [] if file is None else file


def weights_seen(wildcards):
    """What tells the local file of a recipe of weights from another one of the same name, whatever its date."""
    file = weights_file(wildcards)
    return glance(file) if file and Path(file).is_file() else "none"


@functools.cache
def folder_seen():
    """What tells a folder of one's own from itself with photographs or labels added, whatever their dates."""
    if PLAN.data.kind != "folder":
        return "published"
    folders = {PLAN.data.root: PHOTOGRAPHS, PLAN.data.masks: [".png"]}
    try:
        return outline(
            {folder: suffixes for folder, suffixes in folders.items() if folder},
            [file for file in (PLAN.data.labels, PLAN.data.splits) if file],
        )
    except ValueError:
        return "refused"  # by the job that reads the folder, in a sentence


def data_seen(wildcards):
    """`folder_seen`, looked at by the jobs that read the folder alone: each job is a snakemake of its own."""
    return folder_seen()


def split_made(wildcards):
    """What stands for the table of a split; VOC's test has one of its own."""
    return SPLITS_MADE if wildcards.split in PLAN.data.splits_made else TEST_MADE


def predicted_whole():
    """The masks of all photographs of a folder, which are what its owner wants."""
    if WHOLE not in PLAN.data.splits_made:
        return []
    return made("predictions", f"results/{{dataset}}/predictions/{{name}}/{WHOLE}/provenance.json")


def folders(files):
    """The folders that provenance.json files stand for."""
    return [str(Path(file).parent) for file in files]


def swept(wildcards):
    """The seeds recipe of a sweep over layers, which has no number of them."""
    return replace(PLAN.recipe("seeds", PLAN.recipe("layer_sweeps", wildcards.recipe).seeds), layers=None)


def sweep_recipe(wildcards):
    """All that decides a sweep over layers."""
    return canonical(swept(wildcards))


def cost_recipe(wildcards):
    """All that decides what training and seeds cost: no trained network is needed for it."""
    cost = PLAN.recipe("costs", wildcards.recipe)
    seeds = PLAN.recipe("seeds", cost.seeds)
    parts = {"cost": cost, "seeds": seeds, "classifier": PLAN.recipe("classifiers", seeds.classifier)}
    return json.dumps({name: asdict(part) for name, part in parts.items()}, sort_keys=True)


def measured(stage, names):
    """The metrics of recipes of a stage on the split it is reported on."""
    role = PLAN.data.val if stage in ("classifiers", "predictions") else PLAN.data.train
    return [f"results/{PLAN.dataset}/metrics/{stage}/{name}.{role}.json" for name in names]


def metrics_of_table(wildcards):
    """The metrics that the rows of a table show."""
    rows = PLAN.recipe("tables", wildcards.recipe).rows
    named = {(stage, name) for row in rows for key, stage in MEASURED.items() for name in row.recipes(key)}
    return [file for stage, name in sorted(named) for file in measured(stage, [name])]


# What the stages made and how good it is: all that figures and report are made of.
MADE = {
    "train": ancient(RESULTS / "splits" / f"{PLAN.data.train}.csv"),
    "val": ancient(RESULTS / "splits" / f"{PLAN.data.val}.csv"),
    "split_made": RESULTS / "splits" / "provenance.json",
    "metrics": [
        file
        for stage in ("classifiers", "seeds", "pseudo_labels", "predictions")
        for file in measured(stage, sorted(PLAN.recipes[stage]))
    ],
    "seeds": ancient(made("seeds", "results/{dataset}/seeds/{name}/maps.npz")),
    "seeds_made": made("seeds", "results/{dataset}/seeds/{name}/provenance.json"),
    "pseudo_labels": made("pseudo_labels", "results/{dataset}/pseudo_labels/{name}/provenance.json"),
    "predictions": made("predictions", f"results/{{dataset}}/predictions/{{name}}/{PLAN.data.val}/provenance.json"),
}
# The names of all recipes: one that is taken out of the configuration leaves the report, though no file changes.
SHOWN = json.dumps({section: sorted(PLAN.recipes[section]) for section in sorted(PLAN.recipes) if section != "weights"})


def looked_into(path):
    """The file of the classifier whose attention the report shows: that of the first pseudo labels, else of the first seeds."""
    seeds = [recipe.seeds for _, recipe in sorted(PLAN.recipes["pseudo_labels"].items())] or sorted(PLAN.recipes["seeds"])
    names = [PLAN.recipe("seeds", name).classifier for name in seeds] or sorted(PLAN.recipes["classifiers"])
    return [path.format(name=name) for name in names[:1]]
