"""What several files of tests share."""

from pathlib import Path

import pytest

from tests.running import snakemake


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished micro run, which nobody changes."""
    folder = tmp_path_factory.mktemp("micro")
    finished = snakemake(folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "report: results/micro/report.html" in finished.stdout + finished.stderr
    return folder
