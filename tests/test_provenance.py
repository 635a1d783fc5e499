"""The fingerprint of code, what counts and what does not; and what stands beside an artefact."""

import hashlib
import json
import platform
import re
from datetime import UTC, datetime

import pytest

from acr import provenance
from acr.provenance import fingerprint, source, write_provenance

CODE = {
    "script.py": '"""Doc."""\nfrom acr.one import f\n\nf()\n',
    "acr/__init__.py": "",
    "acr/one.py": "from acr.two import g\n\n\ndef f():\n    '''Says nothing.'''\n    return g()\n",
    "acr/two.py": "import acr.three\n\n\ndef g():\n    return 1  # one\n",
    "acr/three.py": "from acr import one\n",
    "acr/unused.py": "x = 1\n",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "acr")
    for name, text in CODE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def digest_after(name: str = "script.py", old: str = "", new: str = "") -> str:
        path = tmp_path / name
        path.write_text(path.read_text().replace(old, new) if old else path.read_text())
        provenance._source.cache_clear()
        return fingerprint(tmp_path / "script.py")

    yield digest_after
    provenance._source.cache_clear()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("script.py", "Doc", "Another doc"),
        ("acr/one.py", "Says nothing", "Says something"),
        ("acr/two.py", "  # one", ""),
        ("acr/two.py", "\n\n\n", "\n\n"),
        ("acr/unused.py", "1", "2"),
    ],
)
def test_what_changes_no_result_changes_no_fingerprint(tree, name: str, old: str, new: str) -> None:
    assert tree() == tree(name, old, new)


def test_modules_that_never_run_do_not_count_nor_what_only_they_import(tree, tmp_path) -> None:
    tree()
    before = fingerprint(tmp_path / "script.py", ["acr.two"])
    for name in ("two", "three"):
        (tmp_path / f"acr/{name}.py").write_text("x = 2\n")
    provenance._source.cache_clear()
    assert fingerprint(tmp_path / "script.py", ["acr.two"]) == before
    (tmp_path / "acr/one.py").write_text("x = 2\n")
    provenance._source.cache_clear()
    assert fingerprint(tmp_path / "script.py", ["acr.two"]) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("script.py", "f()", "f(2)"),
        ("acr/one.py", "g()", "g() + 1"),
        ("acr/two.py", "return 1", "return 2"),
        ("acr/three.py", "one", "unused"),
    ],
)
def test_code_that_the_script_reaches_changes_the_fingerprint(tree, name: str, old: str, new: str) -> None:
    assert tree() != tree(name, old, new)


ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # the SHA-256 of abc


def test_the_fingerprint_names_the_script(tree) -> None:
    assert re.fullmatch(r"code of script\.py: [0-9a-f]{16}", tree())


def test_a_source_is_recipe_inputs_and_code(tmp_path) -> None:
    (tmp_path / "input").write_bytes(b"abc")
    found = source('{"layers": 2}', [str(tmp_path / "input")], "code of a.py: 1")
    assert found == {"recipe": {"layers": 2}, "inputs": {str(tmp_path / "input"): ABC}, "code": "code of a.py: 1"}
    assert source(None, [], None) == {"recipe": None, "inputs": {}, "code": None}


def test_provenance_holds_source_outputs_cost_versions_commit_and_date(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "_commit", lambda: "f00d+")
    (tmp_path / "a.json").write_bytes(b"abc")
    cost = {"device": "cpu", "seconds": 1.5, "peak_memory_mb": 7}
    write_provenance(tmp_path / "a.provenance.json", source(None, [], None), [tmp_path / "a.json"], cost)
    content = json.loads((tmp_path / "a.provenance.json").read_text())
    assert list(content) == ["recipe", "inputs", "code", "outputs", *cost, "versions", "commit", "made"]
    assert content["outputs"] == {str(tmp_path / "a.json"): ABC}
    assert {key: content[key] for key in cost} == cost
    assert content["versions"]["python"] == platform.python_version()
    assert set(content["versions"]) == {"python", *provenance.LIBRARIES}
    assert content["commit"] == "f00d+"
    assert abs(datetime.now(UTC) - datetime.fromisoformat(content["made"])).total_seconds() < 60


def test_a_folder_of_masks_counts_as_a_whole(tmp_path) -> None:
    (tmp_path / "b.png").write_bytes(b"abc")
    write_provenance(tmp_path / "provenance.json", source(None, [], None), [], {})
    content = json.loads((tmp_path / "provenance.json").read_text())
    assert content["outputs"] == {str(tmp_path / "provenance.json"): hashlib.sha256(f"b.png {ABC}\n".encode()).hexdigest()}


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance._commit() is None
    monkeypatch.setenv("PATH", "")
    assert provenance._commit() is None
