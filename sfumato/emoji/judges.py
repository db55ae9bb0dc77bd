"""Stages 3 and 4 of training: the classifier that judges the figures, and the text-image dual encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional

from sfumato.emoji.pool import build_pool
from sfumato.emoji.training.loop import Settings, Worker, autocast, train_loop
from sfumato.emoji.training.sheets import to_pixels
from sfumato.emoji.world import STYLES, Concept, Scene
from sfumato.files import write_whole


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut; halves the resolution when `stride` is 2."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, inner, height, width) to (batch, outer, height / stride, width / stride)."""
        return functional.relu(self.body(hidden_states) + self.shortcut(hidden_states))


class Trunk(nn.Module):
    """A residual convolutional network: pixels (batch, 3, size, size) in [-1, 1] to features (batch, width)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.width = widths[-1]
        stages: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, 2, 2), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for inner, outer in pairwise(widths):
            stages.append(ResidualBlock(inner, outer, 2))
        self.stages = nn.Sequential(*stages)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(batch, 3, size, size) to (batch, width)."""
        features: torch.Tensor = self.stages(pixels).mean(dim=(2, 3))
        return features


class Classifier(nn.Module):
    """Names concept and style of an image; knows nothing of the generator.

    Args:
        concepts: Number of concepts.
        widths: Channels of the trunk's levels.
    """

    def __init__(self, concepts: int, widths: Sequence[int] = (32, 64, 96, 160)) -> None:
        super().__init__()
        self.trunk = Trunk(widths)
        self.concept = nn.Linear(self.trunk.width, concepts)
        self.style = nn.Linear(self.trunk.width, len(STYLES))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of concept (batch, concepts) and of style (batch, 4) for pixels in [-1, 1]."""
        features = self.trunk(pixels)
        return self.concept(features), self.style(features)


def blur_and_noise(pixels: torch.Tensor) -> torch.Tensor:
    """Softens and disturbs each image by another amount, so that a judge does not hang on the finest detail."""
    amount = torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
    kernel = torch.tensor([1.0, 2.0, 1.0], device=pixels.device)
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    soft = functional.conv2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    mixed = torch.lerp(pixels, soft, amount)
    return mixed + 0.1 * torch.rand(len(pixels), 1, 1, 1, device=pixels.device) * torch.randn_like(pixels)


def train_classifier(
    concepts: Sequence[Concept], size: int, settings: Settings, out: Path, *, per_pair: int = 32
) -> Classifier:
    """Trains the judge on renderings of every pair, held-out ones too, and writes `classifier.safetensors`.

    Args:
        concepts: The world's concepts.
        size: Side of the images in pixels.
        settings: See `Settings`; the seed is changed, so that it differs from the generator's.
        out: Folder to write to.
        per_pair: Renderings of each (concept, style).

    Returns:
        The averaged classifier.
    """
    seed = settings.seed + 4321
    torch.manual_seed(seed)
    pool = build_pool(concepts, per_pair, size=size, seed=seed, pairs="all")
    unseen = build_pool(concepts, 2, size=size, seed=seed + 1, pairs="all")
    index = {concept.name: number for number, concept in enumerate(concepts)}
    styles = list(STYLES)
    model = Classifier(len(concepts)).to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def labels(scenes: Sequence[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
        names = torch.tensor([index[scene.concept] for scene in scenes], device=settings.device)
        return names, torch.tensor([styles.index(scene.style) for scene in scenes], device=settings.device)

    def loss_of_batch(worker: Worker) -> torch.Tensor:
        worker.model.train()
        images, scenes = pool.draw([worker.random.randrange(len(pool)) for _ in range(worker.batch)], worker.random)
        pixels = blur_and_noise(to_pixels(images)).to(settings.device, memory_format=torch.channels_last)
        names, drawn = labels(scenes)
        with autocast(settings.device):
            concept, style = worker.model(pixels)
        return functional.cross_entropy(concept.float(), names) + functional.cross_entropy(style.float(), drawn)

    def on_save(average: nn.Module, step: int) -> dict[str, float]:
        average.load_state_dict(
            {**average.state_dict(), **{k: v for k, v in model.state_dict().items() if "running" in k}}
        )
        names, drawn = labels(unseen.scenes)
        with torch.no_grad():
            concept, style = average(to_pixels(unseen.images()).to(settings.device))
        return {
            "concept_top1": float((concept.argmax(1) == names).float().mean()),
            "style_top1": float((style.argmax(1) == drawn).float().mean()),
        }

    average = train_loop("classifier", model, loss_of_batch, settings, on_save=on_save)
    assert isinstance(average, Classifier)
    save_judge(
        average, out / "classifier.safetensors", {"concepts": json.dumps(list(index)), "styles": json.dumps(styles)}
    )
    return average


def save_judge(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes a judge as fp16 safetensors by way of a temporary file, and renews the folder's checksums."""
    from sfumato.emoji.training.export import write_checksums

    state = {
        key: value.to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(state, metadata))
    write_checksums(path.parent)


def load_classifier(path: Path) -> tuple[Classifier, list[str]]:
    """Reads the judge: (classifier in evaluation mode and float32, the concepts' names in the order of its logits)."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = json.loads(file.metadata()["concepts"])
    with torch.random.fork_rng(devices=[]):  # its weights are drawn before they are read
        model = Classifier(len(names))
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    )
    return model.eval(), names
