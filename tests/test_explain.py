"""The chain of an artefact, of a small tree of files and provenance made by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from acr.__main__ import main
from acr.explain import explain, lineage, provenance_of
from acr.files import digest, read_json, write_json

VERSIONS = {"python": "3.11.7", "torch": "2.9.0"}
COST = {"device": "cpu", "seconds": 2.5, "peak_memory_mb": 300}
MADE = {**COST, "versions": VERSIONS, "commit": "f00d", "made": "2026-01-02T03:04:05+00:00"}
SPLIT, MODEL, MASKS = (
    "results/toy/splits/val.csv",
    "results/toy/segmenters/net/model.safetensors",
    "results/toy/predictions/net/val",
)
TRUE_PAGE = """\
made with commit f00d, python 3.11.7, torch 2.9.0

results/toy/predictions/net/val
  2026-01-02T03:04:05+00:00 by merge_masks.py: 1; 2.5 s, 300 MiB, cpu
  crf=null name="a b" scales=[0.5,1.0] training.rate=0.1 training.schedule=poly
  from results/toy/splits/val.csv                   {split} as recorded
  from results/toy/segmenters/net/model.safetensors {model} as recorded

results/toy/segmenters/net
  2026-01-02T03:04:05+00:00 by train_segmenter.py: 2; 100 s, 300 MiB, NVIDIA H100
  with commit beef+, torch 2.8.0
  from results/toy/splits/val.csv {split} as recorded

results/toy/splits
  2026-01-02T03:04:05+00:00; 2.5 s, 300 MiB, cpu
  kind=folder
"""


def made(root: Path, provenance: str, outputs: list[str], inputs: list[str], **more: object) -> None:
    """Writes a provenance as a job run in `root` does."""
    digests = {kind: {name: digest(root / name) for name in names} for kind, names in {"o": outputs, "i": inputs}.items()}
    content = {"recipe": None, "inputs": digests["i"], "code": None, "outputs": digests["o"], **MADE, **more}
    write_json(root / provenance, content)


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A split, a network trained on it, its masks on it, their metrics, a table, pictures and a report."""
    names = [
        SPLIT,
        MODEL,
        f"{MASKS}/a.png",
        "metrics/net.val.json",
        "tables/t.csv",
        "tables/t.md",
        "report.html",
        "summary.txt",
    ]
    files = [name if name.startswith("results") else f"results/toy/{name}" for name in [*names, "figures/val/a.png"]]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    made(tmp_path, "results/toy/splits/provenance.json", [SPLIT], [], recipe={"kind": "folder"})
    network = {"code": "code of train_segmenter.py: 2", "commit": "beef+", "device": "NVIDIA H100", "seconds": 100.0}
    network["versions"] = {**VERSIONS, "torch": "2.8.0"}
    made(tmp_path, "results/toy/segmenters/net/provenance.json", [MODEL], [SPLIT], **network)
    recipe = {"crf": None, "name": "a b", "scales": [0.5, 1.0], "training": {"rate": 0.1, "schedule": "poly"}}
    masks = {"recipe": recipe, "code": "code of merge_masks.py: 1"}
    made(tmp_path, f"{MASKS}/provenance.json", [f"{MASKS}/provenance.json"], [SPLIT, MODEL], **masks)
    metrics = "results/toy/metrics/net.val.json"
    made(tmp_path, metrics.replace(".json", ".provenance.json"), [metrics], [SPLIT, f"{MASKS}/provenance.json"])
    tables = ["results/toy/tables/t.csv", "results/toy/tables/t.md"]
    made(tmp_path, "results/toy/tables/t.provenance.json", tables, [metrics])
    report = ["results/toy/report.html", "results/toy/summary.txt"]
    made(tmp_path, "results/toy/report.provenance.json", report, [tables[1], metrics])
    made(tmp_path, "results/toy/figures/provenance.json", [], [f"{MASKS}/provenance.json"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def page() -> str:
    return TRUE_PAGE.format(split=digest(SPLIT)[:8], model=digest(MODEL)[:8]).rstrip("\n")


def heads(text: str) -> list[str]:
    """The artefacts of a page, in its order."""
    return [block.splitlines()[0] for block in text.split("\n\n")[1:]]


def test_a_page_says_what_the_masks_came_from(tree) -> None:
    assert explain(MASKS) == page()


@pytest.mark.parametrize("path", [f"{MASKS}/a.png", f"{MASKS}/provenance.json", f"./{MASKS}/"])
def test_a_file_or_the_provenance_stands_for_its_folder(tree, path: str) -> None:
    assert explain(path) == page()


def test_a_run_is_explained_from_anywhere(tree, tmp_path_factory, monkeypatch) -> None:
    expected = page()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert explain(tree / MASKS) == expected
    monkeypatch.chdir(tree / MASKS)
    assert explain(".") == explain("a.png") == expected


@pytest.mark.parametrize(
    ("path", "provenance"),
    [
        ("splits/val.csv", "splits/provenance.json"),
        ("segmenters/net/model.safetensors", "segmenters/net/provenance.json"),
        ("metrics/net.val.json", "metrics/net.val.provenance.json"),
        ("tables/t.md", "tables/t.provenance.json"),
        ("report.html", "report.provenance.json"),
        ("summary.txt", "report.provenance.json"),
        ("figures", "figures/provenance.json"),
        ("figures/val/a.png", "figures/provenance.json"),
        ("report.provenance.json", "report.provenance.json"),
    ],
)
def test_each_artefact_has_its_provenance(tree, path: str, provenance: str) -> None:
    assert provenance_of(Path("results/toy", path)) == tree / "results/toy" / provenance


def test_everything_is_said_once_and_before_what_it_was_made_from(tree) -> None:
    expected = ["results/toy/report.html, summary.txt", "results/toy/tables/t.csv, t.md", "results/toy/metrics/net.val.json"]
    assert heads(explain("results/toy/report.html")) == [*expected, *heads(page())]


def test_the_lineage_is_the_same_as_records(tree, tmp_path_factory, monkeypatch) -> None:
    chain = [f"{MASKS}/provenance.json", "results/toy/segmenters/net/provenance.json", "results/toy/splits/provenance.json"]
    expected = [read_json(path) for path in chain]
    assert lineage(MASKS) == expected
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert lineage(tree / MASKS) == expected
    assert lineage(tree / "results") == lineage(tree / "never") == []


@pytest.mark.parametrize(("path", "readers"), [(SPLIT, 2), (MODEL, 1)])
def test_what_changed_since_is_marked_where_it_was_used_and_made(tree, path: str, readers: int) -> None:
    before, recorded = explain(MASKS).splitlines(), digest(path)[:8]
    Path(path).write_text("edited")
    after = explain(MASKS).splitlines()
    made_line = f"  made {path} {recorded} CHANGED SINCE"
    assert after.count(made_line) == 1
    after.remove(made_line)
    marked = [line.replace("as recorded", "CHANGED SINCE") if path in line else line for line in before]
    assert after == marked
    assert sum(line.endswith("CHANGED SINCE") for line in after) == readers


def test_masks_that_changed_are_marked_in_what_was_made_of_them(tree) -> None:
    recorded = digest(MASKS)[:8]
    Path(MASKS, "a.png").write_text("edited")
    text = explain("results/toy/metrics/net.val.json")
    assert f"  from {MASKS}/provenance.json {recorded} CHANGED SINCE" in text.splitlines()
    Path(MASKS, "a.png").write_text(f"{MASKS}/a.png")
    assert "CHANGED" not in explain("results/toy/metrics/net.val.json")


def test_what_is_gone_is_missing_and_its_own_source_still_said(tree) -> None:
    recorded = digest(MODEL)[:8]
    Path(MODEL).unlink()
    text = explain(MASKS)
    assert f"  from {MODEL} {recorded} missing" in text.splitlines()
    assert heads(text) == ["results/toy/predictions/net/val", "results/toy/segmenters/net", "results/toy/splits"]


def test_lines_are_wrapped_at_blanks(tree) -> None:
    lines = explain(MASKS, width=40).splitlines()
    assert lines[:2] == ["made with commit f00d, python 3.11.7,", "  torch 2.9.0"]
    assert lines[5:8] == ['  crf=null name="a b" scales=[0.5,1.0]', "  training.rate=0.1", "  training.schedule=poly"]


def test_the_command_prints_the_page(tree, capsys, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    main(["explain", MASKS])
    assert capsys.readouterr().out == page() + "\n"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("results", "has no provenance; give a file or folder that a rule made, such as results/NAME/report.html"),
        ("results/toy/never", "does not exist; give a file or folder below results"),
    ],
)
def test_what_has_no_provenance_is_one_sentence(tree, path: str, sentence: str) -> None:
    command = [sys.executable, "-m", "acr", "explain", path]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {path} {sentence}\n")


def test_explaining_loads_no_torch() -> None:
    code = "import sys, acr.__main__; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
