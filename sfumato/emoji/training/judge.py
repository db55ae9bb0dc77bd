"""Third stage of training: the independent judge of scenes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.emoji.render import Atlas, render
from sfumato.emoji.scene_judge import CELLS, SceneJudge, Seen, judge_metadata
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.scenes import COLOURS, PATTERNS, TINTS, Scene, World
from sfumato.emoji.training.judging import blur_and_noise, save_judge
from sfumato.emoji.training.loop import Settings, Worker, autocast, train_loop

COVERED = 0.5
"""A cell is a thing's where it covers this much of it; cells of which a tenth to a half is covered are not judged."""
HARDLY = 0.1


def train_judge(atlas: Atlas, settings: Settings, out: Path) -> SceneJudge:
    """Trains the judge on renderings, combinations that are held out too, and writes `judge.safetensors`.

    Args:
        atlas: The drawings of the world.
        settings: See `Settings`; the seed is changed, so that it differs from the generator's.
        out: Folder to write to.

    Returns:
        The averaged judge.
    """
    seed, world = settings.seed + 4321, atlas.world
    torch.manual_seed(seed)
    draw = random.Random(seed + 1)
    unseen = [sample_scene(world, draw, may=True) for _ in range(200)]
    unseen_pixels, _ = render(unseen, atlas)
    model = SceneJudge(world).to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of_batch(worker: Worker) -> Tensor:
        worker.model.train()
        scenes = [sample_scene(world, worker.random, may=True) for _ in range(worker.batch)]
        pixels, masks = render(scenes, atlas)
        disturbed = blur_and_noise(pixels).contiguous(memory_format=torch.channels_last)
        with autocast(settings.device):
            judged = worker.model(disturbed)
        return judge_loss([one.float() for one in judged], scenes, masks, world)

    def on_save(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, SceneJudge)
        running = {key: value for key, value in model.state_dict().items() if "running" in key}
        average.load_state_dict({**average.state_dict(), **running})
        return judged_rightly(average.look(unseen_pixels), unseen)

    average = train_loop("judge", model, loss_of_batch, settings, on_save=on_save)
    assert isinstance(average, SceneJudge)
    save_judge(average, out / "judge.safetensors", judge_metadata(world))
    return average


def judge_loss(judged: Sequence[Tensor], scenes: Sequence[Scene], masks: Tensor, world: World) -> Tensor:
    """Cross-entropy of all that the judge says; masks as `render` gives them."""
    cells, tints, style, colour, pattern, amount = judged
    device = cells.device
    cover, owner = F.adaptive_avg_pool2d(masks, CELLS).max(1)  # (batch, 16, 16)
    names, words = {c.name: n for n, c in enumerate(world.concepts)}, list(TINTS)
    most = masks.shape[1]
    labels = torch.full((len(scenes), most, 2), -100)
    for row, scene in enumerate(scenes):
        for number, thing in enumerate(scene.things):
            tint = len(words) if thing.tint is None else words.index(thing.tint)
            labels[row, number] = torch.tensor([names[thing.concept], tint])
    own = labels.to(device).gather(1, owner.flatten(1)[..., None].expand(-1, -1, 2)).view(len(scenes), CELLS, CELLS, 2)
    concept = torch.where(cover < HARDLY, len(names), torch.where(cover < COVERED, -100, own[..., 0]))
    tints_seen = torch.where(cover < COVERED, -100, own[..., 1])
    whole = [
        [
            world.styles.index(s.style),
            list(COLOURS).index(s.background.colour),
            list(PATTERNS).index(s.background.pattern),
        ]
        for s in scenes
    ]
    styles, colours, patterns = torch.tensor(whole, device=device).T
    amounts = torch.tensor([scene.background.amount for scene in scenes], device=device)
    return (
        F.cross_entropy(cells, concept)
        + F.cross_entropy(tints, tints_seen)
        + F.cross_entropy(style, styles)
        + 0.5 * F.cross_entropy(colour, colours)
        + 0.5 * F.cross_entropy(pattern, patterns)
        + 2 * F.l1_loss(amount, amounts)
    )


def judged_rightly(seen: Sequence[Seen], scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares of scenes in which all things, their tints, style, colour and pattern are named rightly."""
    rights: dict[str, list[bool]] = {name: [] for name in ("things", "tints", "style", "colour", "pattern")}
    for one, scene in zip(seen, scenes, strict=True):
        rights["things"].append({t.concept for t in one.things} == {t.concept for t in scene.things})
        found = [(one.thing(thing.concept), thing) for thing in scene.things]
        rights["tints"] += [there.tint == thing.tint for there, thing in found if there is not None]
        rights["style"].append(one.style == scene.style)
        rights["colour"].append(one.colour == scene.background.colour)
        rights["pattern"].append(one.pattern == scene.background.pattern)
    return {name: sum(values) / max(1, len(values)) for name, values in rights.items()}
