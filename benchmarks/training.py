"""Pairs of the classifier's training step."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from acr.classifiers import Objective, build_classifier, describe
from acr.recipes import Classifier
from acr.training import Training
from benchmarks import reference
from benchmarks.inputs import CLASSES, photograph
from benchmarks.pairs import Pair


def step(backbone: str, size: int, batch: int, device: torch.device) -> Pair:
    """One optimiser step on a batch of crops and their mirror images; compared are the loss and all gradients."""
    recipe = Classifier(backbone=backbone, image_size=size, training=Training(batch_size=batch))
    models = [_built(recipe, device) for _ in range(2)]
    sides = (_reference(models[0], recipe), _ours(models[1], recipe))
    return Pair(
        "classifier step",
        f"{backbone}, {size}, batch {batch}",
        *(lambda number, side=side: side(batch_of(number, batch, size, device)) for side in sides),
        difference=_difference,
        tolerance=1e-4,
        goal="1.1",
    )


def _built(recipe: Classifier, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return build_classifier(describe(recipe, CLASSES)).to(device, memory_format=torch.channels_last).train()


@functools.cache
def batch_of(number: int, batch: int, size: int, device: torch.device) -> dict[str, Tensor]:
    """Crops of photographs and a tag for each, as `acr.classifiers.Objective` takes them."""
    crops = [torch.from_numpy(photograph(number * batch + index, size, size)) for index in range(batch)]
    tags = torch.zeros(batch, len(CLASSES))
    tags[torch.arange(batch), torch.arange(batch) % len(CLASSES)] = 1
    return {"image": torch.stack(crops).permute(0, 3, 1, 2).to(device), "tags": tags.to(device), "step": torch.tensor(number)}


def _reference(model: nn.Module, recipe: Classifier) -> Callable[[dict[str, Tensor]], tuple[float, Tensor]]:
    optimiser = torch.optim.SGD(model.parameters(), 1e-12)

    def stepped(batch: dict[str, Tensor]) -> tuple[float, Tensor]:
        images = model.normalise(batch["image"].float() / 255)
        side = images.shape[-1] // model.patch
        weights = (recipe.activation, recipe.affinity)
        return _stepped(reference.training_loss(model.network, images, batch["tags"], weights, (side, side)), model, optimiser)

    return stepped


def _ours(model: nn.Module, recipe: Classifier) -> Callable[[dict[str, Tensor]], tuple[float, Tensor]]:
    objective = Objective(model, recipe)
    optimiser = torch.optim.SGD(model.parameters(), 1e-12)
    return lambda batch: _stepped(objective(batch)["loss"], model, optimiser)


def _stepped(loss: Tensor, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[float, list[Tensor | None]]:
    """The loss and the gradients; a learning rate of nearly nothing keeps both networks equal."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach()), [parameter.grad for parameter in model.parameters()]


def _difference(one: tuple[float, list], other: tuple[float, list]) -> float:
    """The larger of the loss's relative difference, in units of the hundredth that it may differ, and the gradients'."""
    gradients = [(a, b) for a, b in zip(one[1], other[1], strict=True) if a is not None and b is not None]
    distance = sum(float((a - b).square().sum()) for a, b in gradients) ** 0.5
    length = sum(float(a.square().sum()) for a, _ in gradients) ** 0.5
    return max(100 * abs(one[0] / other[0] - 1), distance / length)


PAIRS: dict[str, Callable[[torch.device], Pair]] = {
    f"step_{short}_{batch}": functools.partial(step, backbone, size, batch)
    for short, backbone, size in (("hybrid", "vit_base_r50_s16_384", 384), ("deit", "deit_small_patch16_224", 224))
    for batch in (2, 4)
}
