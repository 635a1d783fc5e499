import pandas as pd
import pytest

from acr.config import canonical
from acr.files import write_json
from acr.recipes import Row, Table
from acr.tables import COLUMNS, PAPER, build_table, caption, to_markdown, write_table

SEEDS = {
    "stage": "seeds",
    "recipe": "mine",
    "dataset": "voc12",
    "split": "train",
    "images": 528,
    "miou": 35.25,
    "threshold": 0.43,
    "miou_fixed": 33.0,
    "threshold_fixed": 0.5,
    "crf": None,
    "scales": None,
}
PSEUDO = {**SEEDS, "stage": "pseudo_labels", "miou": 40.0, "threshold": None, "miou_fixed": None, "threshold_fixed": None}
VAL = {
    **PSEUDO,
    "stage": "predictions",
    "split": "val",
    "images": 256,
    "miou": 38.0,
    "crf": {"iterations": 10},
    "scales": [0.5, 1],
}
METRICS = {(content["stage"], content["recipe"]): content for content in (SEEDS, PSEUDO, VAL)}


def paper_number(name, method, number):
    (row,) = [row for row in PAPER[name].methods if row[0] == method]
    return row[3 + PAPER[name].numbers.index(number)]


def test_the_papers_numbers_by_spot_checks():
    assert [len(PAPER[name].methods) for name in ("table_1", "table_2", "table_3")] == [15, 16, 23]
    assert paper_number("table_1", "MCTformer", "val") == 42.0
    assert paper_number("table_2", "ACR*", "seed") == 59.4
    assert paper_number("table_2", "Ru et al.", "seed") is None
    assert paper_number("table_2", "Du et al., with saliency", "pseudo") == 73.3
    assert paper_number("table_3", "PMM", "test") == 70.5


@pytest.mark.parametrize("name", PAPER)
def test_acr_stands_last_and_rows_of_the_paper_are_whole(name):
    for row in PAPER[name].methods:
        assert len(row) == 3 + len(PAPER[name].numbers)
        assert row[2] in (True, False, None)
        assert all(number is None or 20 < number < 80 for number in row[3:])
    assert PAPER[name].methods[-1][0] == "ACR"
    assert set(PAPER[name].numbers) <= set(COLUMNS)


def test_our_row_stands_beside_the_papers():
    table = build_table("table_2", (Row("ACR", seeds="mine", pseudo_labels="mine"), Row("ACR*", seeds="mine")), METRICS)
    assert len(table) == 16 + 2
    ours, star = table.to_dict("records")[-2:]
    assert (ours["seed"], ours["seed_paper"], ours["pseudo"], ours["pseudo_paper"]) == (35.25, 67.3, 40.0, 70.8)
    assert (ours["threshold"], ours["seed_fixed"], ours["threshold_fixed"]) == (0.43, 33.0, 0.5)
    assert (ours["split"], ours["images"], ours["source"]) == ("train", "528", "ours")
    assert ours["recipe"] == "seeds/mine, pseudo_labels/mine"
    assert star["seed_paper"] == 59.4
    assert pd.isna(star["pseudo"])
    assert pd.isna(star["pseudo_paper"])
    assert (table["source"][:16] == "paper").all()
    assert table["saliency"].fillna("open").tolist()[:2] == ["yes", "open"]
    assert "crf" not in table


def test_predictions_know_crf_and_scales():
    ours = build_table("table_3", (Row("ACR", predictions="mine"),), METRICS).to_dict("records")[-1]
    assert (ours["val"], ours["val_paper"], ours["crf"], ours["scales"]) == (38.0, 71.2, "yes", "0.5 1")
    without = {("predictions", "mine"): {**VAL, "crf": None}}
    assert build_table("table_3", (Row("ACR", predictions="mine"),), without).to_dict("records")[-1]["crf"] == "no"


def test_any_table_can_be_built_and_names_every_split():
    table = build_table("all", (Row("small", seeds="mine", pseudo_labels="mine", predictions="mine"),), METRICS)
    (row,) = table.to_dict("records")
    assert (row["split"], row["images"], row["val"]) == ("train, val", "528, 256", 38.0)
    assert not {"venue", "seed_paper", "test"} & set(table)
    assert list(table) == [column for column in COLUMNS if column in table]


def test_unmeasured_numbers_stay_empty():
    table = build_table("mine", (Row("ACR", seeds="mine"),), {("seeds", "mine"): {**SEEDS, "miou": None, "images": 0}})
    assert "seed" not in table
    assert "0" in to_markdown("mine", table, "voc12")


def test_a_row_without_its_metrics_is_refused():
    with pytest.raises(ValueError, match="row 'ACR' needs the metrics of seeds/other"):
        build_table("table_2", (Row("ACR", seeds="other"),), METRICS)


def test_the_caption_says_when_numbers_cannot_be_compared():
    table = build_table("table_2", (Row("ACR", seeds="mine"),), METRICS)
    assert "reference only" in caption("table_2", table, "textures")
    assert "reference only" not in caption("table_2", table, "voc12")
    assert "reference only" not in caption("mine", table, "textures")


def test_markdown_escapes_and_rounds():
    text = to_markdown("table_2", build_table("table_2", (Row("A|B*", seeds="mine"),), METRICS), "voc12")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert r"| **A\|B\*** | ours |" in lines[-1]
    assert "| 35.2 |" in lines[-1]
    assert "| 0.43 |" in lines[-1]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert len(lines) == 2 + 16 + 1


def test_tables_are_written_from_metrics_files(tmp_path):
    for content in METRICS.values():
        write_json(tmp_path / f"{content['stage']}.json", content)
    arguments = {
        "recipe": canonical(Table((Row("ACR", seeds="mine"),))),
        "csv": tmp_path / "t.csv",
        "markdown": tmp_path / "t.md",
    }
    write_table(name="table_2", metrics=[tmp_path / f"{stage}.json" for stage, _ in METRICS], **arguments)
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["seed"].tolist()[-1] == 35.25
    assert table["seed_paper"].tolist()[-1] == 67.3
    assert (tmp_path / "t.md").read_text().startswith("**Table 2")
    with pytest.raises(ValueError, match="has no metrics"):
        write_table(name="table_2", metrics=[], **arguments)
