"""Table 9's figures: measured, plausible, and of the network that the recipe names."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from acr.costs import peak_memory
from acr.files import read_json
from acr.recipes import Classifier, Cost, Seeds, Training
from tests.running import environment


def test_memory_that_a_block_needed_is_seen() -> None:
    with peak_memory(torch.device("cpu")) as peak:
        held = torch.ones(3 * 2**26)  # 768 MiB, more than the process has held so far
        assert float(held[-1]) == 1
    del held
    with peak_memory(torch.device("cpu")) as nothing:
        pass
    assert 700 < peak["mib"] < 1000
    assert nothing["mib"] < 100  # what was held before is forgotten


@pytest.mark.parametrize(("backbone", "size"), [(None, None), ("deit_tiny_patch16_224", 64)])
def test_costs_are_written_of_the_network_that_is_named(trained: dict, tmp_path: Path, backbone, size) -> None:
    recipe = {
        "cost": asdict(Cost(seeds="acr", training_steps=1, images=2, backbone=backbone, image_size=size)),
        "seeds": asdict(Seeds(classifier="acr", image_size=32)),
        "classifier": asdict(Classifier(backbone="vit_stem8_96", image_size=32, training=Training(batch_size=4))),
    }
    output = tmp_path / "cost.json"
    call = {"split": trained["split"], "recipe": json.dumps(recipe), "execution": {"device": "cpu"}}
    call |= {"dataset": "toy", "name": "acr", "output": str(output)}
    # in a process of its own, as in a job: this one has memory left to fill
    command = [sys.executable, "-c", f"from acr.costs import measure_cost; measure_cost(**{call!r})"]
    subprocess.run(command, check=True, env=environment())
    content = read_json(output)
    assert (content["stage"], content["recipe"], content["device"], content["images"]) == ("costs", "acr", "cpu", 2)
    assert content["backbone"] == (backbone or "vit_stem8_96")
    assert content["resolution"] == (size or 32)
    assert 0.1 < content["images_per_second"] < 1000
    # DeiT-Tiny's 5.5 million weights alone, with gradient and momentum, are 63 MiB
    assert (63 if backbone else 1) <= content["training_memory_mb"] < 2000
