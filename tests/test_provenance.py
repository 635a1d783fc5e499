"""The fingerprint of code: what counts, and what does not."""

import json

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


def test_provenance_names_recipe_and_inputs(tmp_path) -> None:
    (tmp_path / "input").write_bytes(b"abc")
    write_provenance(tmp_path / "p.json", source('{"layers": 2}', [tmp_path / "input", None]))
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["recipe"] == {"layers": 2}
    assert content["inputs"] == {str(tmp_path / "input"): "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert content["versions"]["torch"].startswith("2.")
