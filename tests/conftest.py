"""What several files of tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.running import snakemake


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the jobs of `run` compute: the number of threads decides the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished micro run, which nobody changes."""
    folder = tmp_path_factory.mktemp("micro")
    finished = snakemake(folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "report: results/micro/report.html" in finished.stdout + finished.stderr
    return folder
