import re
import string

import numpy as np
import pandas as pd
import pytest

from acr.config import canonical
from acr.datasets.base import Record, Skipped, Split, read_split, write_classes, write_skipped, write_split
from acr.files import read_json, write_arrays, write_json
from acr.findings import findings
from acr.hypertext import contents_html, markdown_html, section
from acr.images import write_image, write_mask
from acr.metrics import measure_masks, measure_seeds
from acr.recipes import Predictions, PseudoLabels, Row, Seeds, Table
from acr.report import ranked, write_report
from acr.tables import write_table

SPLIT = Split("train", ("cat", "dog"), ())


def test_markdown_becomes_a_table_and_is_escaped():
    text = "**Table <1>**\n\nA & B.\n\n| method | val |\n| --- | --- |\n| **a\\|b\\*** | 1.0 |\n|  | 2.0 |\n"
    page = markdown_html(text)
    assert "<p><b>Table &lt;1&gt;</b></p><p>A &amp; B.</p>" in page
    assert "<th>method</th><th>val</th>" in page
    assert "<tr><td><b>a|b*</b></td><td>1.0</td></tr><tr><td></td><td>2.0</td></tr>" in page


TRUTH = np.array([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 2, 2]], np.uint8)


@pytest.fixture
def run(tmp_path):
    """A finished run on ten images a split, with masks of falling quality on val."""
    rng, folder = np.random.default_rng(0), tmp_path / "results/toy"
    write_classes(folder / "splits/classes.txt", SPLIT.classes)
    for name in ("train", "val"):
        ids = [f"{name}_{number}" for number in range(10)]
        for number, image_id in enumerate(ids):
            write_image(tmp_path / f"images/{image_id}.png", rng.integers(0, 255, (3, 4, 3)).astype(np.uint8))
            write_mask(tmp_path / f"masks/{image_id}.png", TRUTH)
            guess = TRUTH.copy()
            guess.ravel()[:number] = 1
            write_mask(
                folder / ("pseudo_labels/walked" if name == "train" else "predictions/net/val") / f"{image_id}.png", guess
            )
        files = [(tmp_path / "images" / f"{i}.png", tmp_path / "masks" / f"{i}.png") for i in ids]
        records = tuple(Record(i, *paths, ("cat", "dog")) for i, paths in zip(ids, files, strict=True))
        write_split(folder / f"splits/{name}.csv", Split(name, SPLIT.classes, records))
    write_skipped(folder / "splits/skipped.csv", [])
    for name, refine in (("acr", True), ("star", False)):
        maps = ((f"train_{number}", rng.random((2, 2, 2)).astype(np.float16)) for number in range(10))
        write_arrays(folder / f"seeds/{name}/maps.npz", maps)
        measure_seeds(
            split=folder / "splits/train.csv",
            maps=folder / f"seeds/{name}/maps.npz",
            recipe=canonical(Seeds(classifier="acr", refine=refine)),
            dataset="toy",
            name=name,
            output=folder / f"metrics/seeds/{name}.train.json",
        )
    for stage, name, split, recipe in (
        ("pseudo_labels", "walked", "train", PseudoLabels(seeds="acr")),
        ("predictions", "net", "val", Predictions(segmenter="<net>")),
    ):
        measure_masks(
            split=folder / f"splits/{split}.csv",
            masks=folder / stage / name / ("val" if split == "val" else ""),
            stage=stage,
            recipe=canonical(recipe),
            dataset="toy",
            name=name,
            output=folder / f"metrics/{stage}/{name}.{split}.json",
        )
    history = folder / "classifiers/acr/history.csv"
    history.parent.mkdir(parents=True)
    pd.DataFrame({"step": [50, 100], "learning_rate": [0.1, 0.1], "loss": [2.0, 1.0]}).to_csv(history, index=False)
    made = {
        "commit": "f00d",
        "inputs": {},
        "outputs": {f"results/toy/classifiers/acr/model.{kind}": "0" for kind in ("safetensors", "json")},
    }
    cost = {"seconds": 12.5, "peak_memory_mb": 321, "device": "cpu"}
    write_json(history.with_name("provenance.json"), made | cost)
    write_image(folder / "figures/attention/acr/train_1.activation_1.png", np.full((2, 3, 3), 7, np.uint8))
    seen = {"image_id": ["train_1"], "kind": ["activation"], "title": ["its view"], "file": ["train_1.activation_1.png"]}
    pd.DataFrame(seen).to_csv(folder / "figures/attention/acr.csv", index=False)
    write_table(
        name="table_2",
        recipe=canonical(Table((Row("ACR", seeds="acr", pseudo_labels="walked"),))),
        metrics=sorted(folder.glob("metrics/*/*.json")),
        csv=folder / "tables/table_2.csv",
        markdown=folder / "tables/table_2.md",
    )
    return folder


def write(folder, **other):
    files = {
        "metrics": sorted(folder.glob("metrics/*/*.json")),
        "seeds": sorted(folder.glob("seeds/*/maps.npz")),
        "pseudo_labels": sorted(folder.glob("pseudo_labels/*")),
        "predictions": sorted(folder.glob("predictions/*/val")),
        "histories": sorted(folder.glob("*/*/history.csv")),
        "sweeps": [],
        "tables": sorted(folder.glob("tables/*.md")),
        "attention": sorted(folder.glob("figures/attention/*.csv")),
        **other,
    }
    splits = {name: folder / f"splits/{name}.csv" for name in ("train", "val", "skipped")}
    write_report(dataset="toy", **splits, **files, report=folder / "report.html", summary=folder / "summary.txt")
    return (folder / "report.html").read_text()


def test_images_are_ranked_by_their_prediction(run):
    ranking = ranked(read_split(run / "splits/val.csv"), run / "predictions/net/val")
    assert ranking[0][0] == 100
    assert ranking[0][1].image_id == "val_0"
    assert [score for score, _ in ranking] == sorted((score for score, _ in ranking), reverse=True)
    # val_3 has 3 pixels of cat too many: two of background, one right
    scores = {record.image_id: score for score, record in ranking}
    assert scores["val_3"] == pytest.approx(100 * (4 / 6 + 2 / 4 + 1) / 3)


def test_the_page_needs_nothing_else_and_has_every_section(run):
    page = write(run)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "Images of train",
        "Images of val",
        "The best predictions of val",
        "The worst predictions of val",
        "Attention, and what a view makes of it",
        "Seeds against the background threshold",
        "Too much and too little",
        "Classes",
        "What is taken for what",
        "Training",
        "Tables",
        "Costs",
        "Provenance",
    ]
    # six of train with photograph, truth, two maps of two classes and a mask, twelve of val with three, one of attention
    assert page.count("<figure>") == 6 * 7 + 12 * 3 + 1
    assert [f"#{name}" for name in re.findall('<section id="(.*?)">', page)] == re.findall('<a href="(.*?)">', page)
    assert "&lt;net&gt;" in page
    assert "<net>" not in page
    assert "f00d" in page
    assert not string.Template(page).get_identifiers()
    best = re.search("<h2>The best predictions of val.*?</section>", page, re.DOTALL)[0]
    assert re.findall(r"<h3>(\w+):", best)[0] == "val_0"
    worst = re.search("<h2>The worst predictions of val.*?</section>", page, re.DOTALL)[0]
    scores = [float(score) for score in re.findall("prediction ([0-9.]+) mIoU</h3>", worst)]
    assert len(scores) == 3
    assert scores == sorted(scores)
    assert scores[0] == round(ranked(read_split(run / "splits/val.csv"), run / "predictions/net/val")[-1][0], 1)


def test_the_answer_comes_first(run):
    page = write(run)
    sentences = findings([read_json(path) for path in sorted(run.glob("metrics/*/*.json"))])
    assert len(sentences) == 3
    first = page.index("Learnt from tags alone: masks of")
    assert all(first < page.index("<table") < page.index(sentence) < page.index("<h2>") for sentence in sentences)
    assert (run / "summary.txt").read_text().endswith(sentences[-1] + "\n")


def test_photographs_that_were_left_out_are_named(run):
    assert "left out" not in write(run) + (run / "summary.txt").read_text()
    skipped = [
        Skipped("train", "a b", "images/a <b>.jpg", "it is empty (0 bytes)"),
        Skipped("val", "ü", "images/ü.jpg", "it is empty"),
    ]
    write_skipped(run / "splits/skipped.csv", skipped)
    page = write(run)
    assert "2 photographs were left out (2: it is empty)" in page
    assert "train: images/a &lt;b&gt;.jpg (it is empty (0 bytes))\nval: images/ü.jpg (it is empty)" in page
    assert page.index("left out") < page.index("<h2>")
    assert (run / "summary.txt").read_text().endswith("were left out (2: it is empty); see splits/skipped.csv.\n")
    again = skipped[0]._replace(split="all")  # the same photograph
    write_skipped(run / "splits/skipped.csv", [*skipped, again, Skipped("val", "c", "c.jpg", "it is lost")])
    assert "3 photographs were left out (2: it is empty; 1: it is lost)" in write(run)
    write_skipped(run / "splits/skipped.csv", skipped[:1])
    assert "1 photograph was left out (1: it is empty)" in write(run)


def test_every_picture_says_what_it_is(run):
    page = write(run)
    texts = re.findall('<img (?:class="plot" )?alt="(.*?)"', page)
    assert len(texts) == page.count("<img")
    assert all(len(text) > 4 for text in texts)
    assert "cat, unrefined, star of train_2" in texts
    assert "its view of train_1" in texts
    assert "confusion matrix of predictions net" in texts
    scrolled = re.findall('<div class="wide" (.*?)>', page)  # also by those who have no mouse
    assert scrolled
    assert all('tabindex="0"' in each and "aria-label" in each for each in scrolled)


def test_costs_are_those_of_provenance(run):
    part = re.search('<section id="costs">.*?</section>', write(run), re.DOTALL)[0]
    assert re.findall("<td>(.*?)</td>", part) == [
        *("toy/classifiers/acr", "12.5", "321", "cpu"),
        *("all, one after the other", "12.5", "321", "cpu"),
    ]


def test_sections_are_listed_under_the_names_they_have():
    parts = [section("What is <taken> for what", ["x"]), section("Nothing", []), section("Costs", ["y"])]
    assert contents_html(parts) == (
        '<nav aria-label="Sections"><ul><li><a href="#what-is-taken-for-what">What is &lt;taken&gt; for what</a></li>'
        '<li><a href="#costs">Costs</a></li></ul></nav>'
    )


def test_equal_results_give_an_equal_page(run):
    assert write(run) == write(run)


def test_a_run_that_stops_at_the_seeds_has_a_report_too(run):
    metrics = sorted(run.glob("metrics/seeds/*.json"))
    page = write(run, metrics=metrics, pseudo_labels=[], predictions=[], histories=[], tables=[], attention=[])
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "Images of train",
        "Images of val",
        "Seeds against the background threshold",
        "Too much and too little",
        "Classes",
        "Provenance",
    ]
