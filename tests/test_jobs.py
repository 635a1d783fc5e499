"""Jobs: what fails says one sentence on the screen and everything in the log; what succeeds says what it is made from."""

import errno
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from acr import jobs, training
from acr.files import Arrays, atomic, digest, read_json, write_arrays, write_json, write_resumably
from acr.images import read_image, write_image
from acr.jobs import job
from acr.recipes import Execution, Training
from acr.training import Run, fit

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # the SHA-256 of abc
FULL = "a file cannot be written (No space left on device); make room on the disk and give the same command again, "
FULL += "which goes on from what is there"


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Jobs redirect the log of their process; here it is one of many."""
    level = logging.root.level
    yield
    close_log()
    logging.root.setLevel(level)
    logging.captureWarnings(capture=False)
    logging.raiseExceptions = True


def close_log() -> None:
    for handler in [each for each in logging.root.handlers if isinstance(each, logging.FileHandler)]:
        logging.root.removeHandler(handler)
        handler.close()


class Named(list):
    """Named files as snakemake hands them to a script: lists among them are laid flat."""

    def __init__(self, **items: str | list[str]) -> None:
        for name, value in items.items():
            setattr(self, name, value)
            self.extend(value if isinstance(value, list) else [value])

    def get(self, name: str, default: object = None) -> object:
        return getattr(self, name, default)


def task(folder: Path, inputs: dict | None = None, outputs: dict | None = None, **params: str) -> SimpleNamespace:
    """What snakemake tells a script, of a job that writes its provenance into `folder`."""
    output = Named(**(outputs or {}), provenance=str(folder / "a.provenance.json"))
    log = [str(folder / "logs" / "a.log")]
    return SimpleNamespace(log=log, input=Named(**(inputs or {})), output=output, params=params, config={})


def run(folder: Path, function: Callable[[], object], **described: object) -> dict:
    """Runs a function as a job and returns the provenance it leaves."""
    described = task(folder, **described)
    with job(described):
        function()
    return read_json(described.output.provenance)


def failed(folder: Path, function: Callable[[], object]) -> str:
    """What a job says that ends with one sentence; it leaves no provenance and its traceback in the log."""
    with pytest.raises(SystemExit) as caught:
        run(folder, function)
    assert not (folder / "a.provenance.json").exists()
    text = (folder / "logs" / "a.log").read_text()
    assert "Traceback" in text
    assert "done" not in text
    start, end = "error: ", f" (log: {folder / 'logs' / 'a.log'})"
    assert caught.value.code.startswith(start)
    assert caught.value.code.endswith(end)
    assert "\n" not in caught.value.code
    return caught.value.code.removeprefix(start).removesuffix(end)


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


# ---- errors --------------------------------------------------------------------------------------------------------------


def test_a_value_error_is_one_sentence_and_the_traceback_is_in_the_log(tmp_path: Path) -> None:
    assert failed(tmp_path, raising(ValueError("a is 1, but must be 2; write 2"))) == "a is 1, but must be 2; write 2"


def test_an_interruption_is_logged_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, raising(KeyboardInterrupt()))
    assert "ended by KeyboardInterrupt()" in (tmp_path / "logs/a.log").read_text()
    assert not (tmp_path / "a.provenance.json").exists()


@pytest.mark.parametrize("error", [RuntimeError("odd"), OSError(errno.EIO, "I/O error"), ValueError(), KeyError("a")])
def test_any_other_error_says_what_and_where_and_leaves_the_traceback_to_the_log(tmp_path: Path, error: Exception) -> None:
    said = failed(tmp_path, raising(error))
    line = Path(__file__).read_text().splitlines().index("        raise error") + 1
    where = f"jobs.py, line {_line_of_the_block()}"
    assert said == f"unexpected {type(error).__name__} in {where}: {error}; the traceback is in the log"
    log = (tmp_path / "logs/a.log").read_text()
    assert f"line {line}, in function" in log


def _line_of_the_block() -> int:
    """Where in acr/jobs.py a job hands over to its block: the last place in the package that these errors pass."""
    return Path(jobs.__file__).read_text().splitlines().index("        yield made_from") + 1


def test_the_last_lines_of_the_log_come_before_the_sentence(tmp_path: Path) -> None:
    def function() -> None:
        for step in range(9):
            logging.getLogger("acr.training").info("step %d", step)
        raise ValueError("the loss is nan")

    with pytest.raises(SystemExit) as caught:
        run(tmp_path, function)
    head, *lines, sentence = caught.value.code.splitlines()
    log = tmp_path / "logs/a.log"
    assert head == f"the log {log} ends with:"
    assert [line.partition("acr.training: ")[2] for line in lines] == [f"step {step}" for step in range(4, 9)]
    assert sentence == f"error: the loss is nan (log: {log})"


def test_a_gpu_that_is_too_small_is_a_sentence_with_the_keys_to_turn(tmp_path: Path) -> None:
    said = failed(tmp_path, raising(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")))
    assert said == (
        "CUDA out of memory. Tried to allocate 2.00 GiB; lower training.batch_size, image_size or crop_size of the recipe, or "
        "execution.batch"
    )


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room on the disk"),
        (errno.EDQUOT, "make room within your quota"),
        (errno.EROFS, "make the folder writable"),
        (errno.EACCES, "make the folder writable"),
        (errno.EPERM, "make the folder writable"),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, number: int, advice: str) -> None:
    reason = os.strerror(number)
    rest = f"({reason}); {advice} and give the same command again, which goes on from what is there"
    assert failed(tmp_path, raising(OSError(number, reason, "results/a"))) == f"results/a cannot be written {rest}"
    assert failed(tmp_path, raising(OSError(number, reason))) == f"a file cannot be written {rest}"

    def wrapped() -> None:
        try:
            raise OSError(number, reason)
        except OSError:
            raise RuntimeError("unexpected position")  # noqa: B904 - as torch does, whose archives end so

    assert failed(tmp_path, wrapped) == f"a file cannot be written {rest}"

    def caused() -> None:
        try:
            raise OSError(number, reason)
        except OSError as error:
            raise RuntimeError("unexpected position") from error

    assert failed(tmp_path, caused) == f"a file cannot be written {rest}"


class Mean(torch.nn.Module):
    """A loss that needs no more than an image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": self.weight * batch["image"].float().mean()}


class Photograph:
    """A sample that reads a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"image": read_image(self.path)}


def test_a_photograph_that_a_worker_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:3000])
    training_run = Run(tmp_path / "c", {}, Execution(device="cpu", workers=1))
    said = failed(tmp_path, lambda: fit(Mean(), 1, Photograph(path), Training(steps=1, batch_size=1), training_run))
    assert said.startswith(f"{path} cannot be read as an image")


# ---- a full disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(small_disk: Callable[[str], Path]) -> Path:
    """Room for 1 MiB."""
    return small_disk("1m")


NOISE = np.random.default_rng(0).integers(0, 256, (15, 200, 167, 3), dtype=np.uint8)  # 15 x 98 KiB, which nothing compresses
NAMES = [str(index) for index in range(len(NOISE))]


def save_checkpoint(path: Path) -> None:
    model = torch.nn.Linear(1000, 1000)
    optimiser = torch.optim.SGD(model.parameters())
    training._save(Run(path, {}, Execution(device="cpu")), training._State(model, optimiser), optimiser)


def save_table(path: Path) -> None:
    with atomic(path) as temporary:
        pd.DataFrame(NOISE.reshape(-1, 100)).to_csv(temporary, index=False)


def save_bytes(path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(NOISE.tobytes())


WRITERS = {
    "checkpoint": save_checkpoint,
    "table.csv": save_table,
    "bytes": save_bytes,
    "maps.npz": lambda path: write_arrays(path, [("a", NOISE)]),
    "image.png": lambda path: write_image(path, NOISE.reshape(-1, 167, 3)),
    "metrics.json": lambda path: write_json(path, "a" * 2**21),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, disk: Path, name: str) -> None:
    assert failed(tmp_path, lambda: WRITERS[name](disk / name)) == FULL
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk_is_one_sentence(tmp_path: Path, disk: Path, name: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    said = failed(tmp_path, lambda: WRITERS[name](disk / name))
    assert said.startswith(f"{disk}/.unfinished-")
    assert said.partition(" cannot be written ")[2] == (
        "(Read-only file system); make the folder writable and give the same command again, which goes on from what is there"
    )


def test_a_shard_goes_on_once_there_is_room(tmp_path: Path, disk: Path) -> None:
    made = []

    def arrays(first: int) -> Iterator[np.ndarray]:
        for index in range(first, len(NOISE)):
            made.append(index)
            yield NOISE[index]

    assert failed(tmp_path, lambda: write_resumably(disk / "maps.npz", {}, NAMES, arrays)) == FULL
    assert [path.name for path in disk.iterdir()] == [".unfinished-maps.npz.journal"]
    # number 10 did not fit
    assert made == list(range(11))
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    run(tmp_path, lambda: write_resumably(disk / "maps.npz", {}, NAMES, arrays))
    assert made == [*range(11), *range(10, 15)]
    assert [path.name for path in disk.iterdir()] == ["maps.npz"]
    archive = Arrays(disk / "maps.npz")
    assert all((archive[name] == array).all() for name, array in zip(NAMES, NOISE, strict=True))


def test_a_log_on_a_full_disk_ends_no_job(tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture) -> None:
    described = task(tmp_path)
    described.log = [str(disk / "a.log")]
    with job(described):
        (disk / "filler").write_bytes(bytes(2**20 - 4096))
        for _ in range(100):
            logging.info("a line that does not fit " * 10)
    assert (tmp_path / "a.provenance.json").exists()
    assert 0 < (disk / "a.log").stat().st_size <= 4096
    assert capsys.readouterr().err == ""
    (disk / "filler").unlink()
    close_log()


# ---- provenance ----------------------------------------------------------------------------------------------------------


def test_what_is_logged_stands_in_the_file(tmp_path: Path) -> None:
    run(tmp_path, lambda: logging.getLogger("acr.test").info("fifty steps"))
    text = (tmp_path / "logs/a.log").read_text()
    assert f"root: process {os.getpid()} starts" in text.splitlines()[0]
    assert "acr.test: fifty steps" in text
    assert text.rstrip().endswith("done")


def test_a_log_can_be_followed_and_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.log").write_text("of the attempt before\n")
    seen = []

    def look() -> None:
        logging.info("fifty steps")
        seen.append((tmp_path / "logs/a.log").read_text())

    run(tmp_path, look)
    assert seen[0].endswith("root: fifty steps\n")
    assert "of the attempt before" not in seen[0]


def test_provenance_says_what_a_job_is_made_from(tmp_path: Path) -> None:
    for name in ("split.csv", "maps.npz", "out.csv"):
        (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "masks").mkdir()
    inputs = {"split": str(tmp_path / "split.csv"), "maps": str(tmp_path / "maps.npz")}
    inputs["masks"] = str(tmp_path / "masks/provenance.json")
    described = task(tmp_path, inputs, {"table": str(tmp_path / "out.csv")}, recipe='{"layers": 2}', code="code of a.py: 1")
    with job(described) as made_from:
        time.sleep(0.02)
    masks = digest(tmp_path / "masks")
    expected = {inputs["split"]: ABC, inputs["maps"]: ABC, inputs["masks"]: masks}
    assert made_from == {"recipe": {"layers": 2}, "inputs": expected, "code": "code of a.py: 1"}
    content = read_json(described.output.provenance)
    assert {key: content[key] for key in made_from} == made_from
    assert content["outputs"] == {str(tmp_path / "out.csv"): ABC}
    assert content["device"] == "cpu"
    assert 0.02 <= content["seconds"] < 10
    assert 20 < content["peak_memory_mb"] < 20000
    assert {"versions", "commit", "made"} < set(content)


def test_a_job_without_recipe_or_inputs_says_so(tmp_path: Path) -> None:
    content = run(tmp_path, lambda: None)
    assert (content["recipe"], content["inputs"], content["code"], content["outputs"]) == (None, {}, None, {})


def test_what_shards_cost_counts_and_their_number_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_bytes(b"abc")
    costs = [("NVIDIA H100", 100.0, 5000), ("NVIDIA A100", 20.25, 10**6), ("NVIDIA H100", 1.5, 3)]
    parts, shards = [], []
    for index, (device, seconds, memory) in enumerate(costs):
        parts.append(str(tmp_path / f"{index}.json"))
        shards.append(str(tmp_path / f"{index}.npz"))
        Path(shards[-1]).touch()
        write_json(parts[-1], {"device": device, "seconds": seconds, "peak_memory_mb": memory})
    inputs = {"split": str(tmp_path / "split.csv"), "shards": shards, "parts": parts}
    content = run(tmp_path, lambda: None, inputs=inputs)
    assert content["inputs"] == {inputs["split"]: ABC}
    assert content["device"] == "NVIDIA A100, NVIDIA H100"
    assert 121.75 <= content["seconds"] < 125
    assert content["peak_memory_mb"] == 10**6
    alone = run(tmp_path, lambda: None, inputs={**inputs, "shards": shards[:1], "parts": parts[:1]})
    assert alone["inputs"] == content["inputs"]


def test_the_gpu_that_was_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert run(tmp_path, lambda: None)["device"] == "NVIDIA H100"
    monkeypatch.delitem(jobs.sys.modules, "torch")
    assert run(tmp_path, lambda: None)["device"] == "cpu"


def test_the_memory_of_processes_that_were_waited_for_counts(tmp_path: Path) -> None:
    size = run(tmp_path, lambda: None)["peak_memory_mb"] + 200
    code = f"a = bytearray({size} * 2**20)\nfor i in range(0, len(a), 4096): a[i] = 1"
    found = run(tmp_path, lambda: subprocess.run(["python3", "-c", code], check=True))["peak_memory_mb"]
    assert size <= found < size + 200


def test_an_output_that_was_not_written_leaves_no_provenance(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"never\.csv"):
        run(tmp_path, lambda: None, outputs={"table": str(tmp_path / "never.csv")})
    assert not (tmp_path / "a.provenance.json").exists()
