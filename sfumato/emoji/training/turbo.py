"""Distils the embedded model into a student that draws in four steps without guidance:

    python -m sfumato.emoji.training.turbo 60

The student is the teacher's network, trained further so that from each point of the teacher's paths it predicts at once
where the path ends (consistency at the endpoint: Song et al., 2023, https://arxiv.org/abs/2303.01469, with solved paths
in the place of a second student). The teacher's guidance is part of the paths, so the student needs none. It is sampled
as latent consistency models are (Luo et al., 2023, https://arxiv.org/abs/2310.04378). A run that was stopped goes on
from its last checkpoint. At the end stand the student (`unet`, `scheduler`), in files of at most 15 MB, and figures.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import LCMScheduler
from torch import Tensor, nn

from sfumato.emoji import WEIGHTS
from sfumato.emoji.defaults import GUIDANCE_SCALE
from sfumato.emoji.render import ATLAS, Atlas
from sfumato.emoji.scene_captions import caption
from sfumato.emoji.scene_judge import SceneJudge, load_scene_judge
from sfumato.emoji.scene_sampling import sample_scene
from sfumato.emoji.training.data import cache_folder
from sfumato.emoji.training.export import write_checksums
from sfumato.emoji.training.loop import Settings, Worker, autocast, console, train_loop
from sfumato.emoji.training.networks import build_scheduler
from sfumato.emoji.training.paths import POINTS, PathPool, Teacher
from sfumato.files import folder_written_whole, written_whole
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.loading import load_model
from sfumato.models.schedules import split
from sfumato.models.stable_diffusion import StableDiffusion
from sfumato.sampling.layout import Branch
from sfumato.sampling.lcm import LCM
from sfumato.sampling.loop import sample
from sfumato.sampling.stepper import Stepper

SHARD = "15MB"
"""Largest size of a file of weights."""
STEPS = 4


def train_turbo(
    teacher: Teacher, settings: Settings, *, renewed: int, pool_size: int, judge: SceneJudge | None, export_to: Path
) -> nn.Module:
    """Trains the student, and writes it at each checkpoint.

    Args:
        teacher: Solves the paths; its network is where the student starts.
        settings: See `Settings`.
        renewed: Paths that are solved anew at each step.
        pool_size: Paths that are kept.
        judge: Says at each checkpoint how many things it finds in what the student draws; or None.
        export_to: Folder of the student.

    Returns:
        The averaged student.
    """
    torch.manual_seed(settings.seed)
    student, schedule = copy.deepcopy(teacher.model.unet).train().requires_grad_(True), teacher.schedule
    workers = settings.workers
    pools = [PathPool(teacher, max(pool_size // workers, 1)) for _ in range(workers)]

    def loss_of_batch(worker: Worker) -> Tensor:
        pool, fewest = pools[worker.index], min(worker.batch, pool_size // workers)
        pool.renew(max(1, renewed // workers), worker.random, worker.generator)
        while len(pool) < fewest:
            pool.renew(max(1, renewed // workers), worker.random, worker.generator)
        noisy, times, clean, text = pool.take(worker.batch, worker.random)
        return endpoint_loss(predicted(worker.model, schedule, noisy, times, text), clean)

    def on_save(average: nn.Module, step: int) -> dict[str, float]:
        export_student(export_to, average)
        if judge is None:
            return {}
        few = student_of(teacher.model, average)
        return {"found": found(few, judge, count=16, steps=STEPS, stepper=LCM())}

    return train_loop("turbo", student, loss_of_batch, settings, on_save=on_save)


def predicted(unet: nn.Module, schedule: DiscreteVP, noisy: Tensor, times: Sequence[int], text: Tensor) -> Tensor:
    """Clean latents that a network predicts of noisy ones, each at a time of its own; under autocast.

    Args:
        unet: The student.
        schedule: Its noise levels, and what it returns.
        noisy: (batch, channels, height, width).
        times: One for each.
        text: Embeddings of the captions, (batch, tokens, dim).
    """
    with autocast(noisy.device.type):
        output = unet(noisy, torch.tensor(times, device=noisy.device), text).sample.float()
    each = zip(output, noisy, times, strict=True)
    return torch.stack([split(one, seen, schedule.level(time), schedule.target).x0 for one, seen, time in each])


def endpoint_loss(predicted: Tensor, clean: Tensor) -> Tensor:
    """Pseudo-Huber distance of predicted clean latents from those where the path ends, mean over the batch."""
    error = (predicted - clean).square().mean(dim=(1, 2, 3))
    loss: Tensor = (error + 1e-4).sqrt().mean()
    return loss


def student_scheduler() -> LCMScheduler:
    """The scheduler of the student: its steps are points of the paths that it was trained on."""
    return LCMScheduler.from_config(build_scheduler().config, original_inference_steps=POINTS)


def student_of(teacher: StableDiffusion, unet: Any) -> StableDiffusion:
    """The model that draws with a student's network, and has all else of its teacher."""
    scheduler, few = student_scheduler(), copy.copy(teacher)
    few.unet, few.schedule = unet, DiscreteVP.from_config({**scheduler.config, "_class_name": type(scheduler).__name__})
    return few


def export_student(target: Path, unet: Any) -> None:
    """Writes the student in fp16; a reader never sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with folder_written_whole(target) as fresh:
        half = copy.deepcopy(unet).to("cpu", torch.float16).requires_grad_(False)
        half.save_pretrained(fresh / "unet", safe_serialization=True, max_shard_size=SHARD)
        student_scheduler().save_pretrained(fresh / "scheduler")
        config = fresh / "unet" / "config.json"
        told = json.loads(config.read_text(encoding="utf-8"))
        told.pop("_name_or_path", None)  # a path of the machine that trained it
        config.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        for file in fresh.rglob("*"):
            if file.is_file():
                file.chmod(0o644)
        write_checksums(fresh)


@torch.no_grad()
def found(
    model: StableDiffusion,
    judge: SceneJudge,
    *,
    count: int,
    steps: int,
    guidance_scale: float = 1.0,
    stepper: Stepper[Any] | None = None,
    seed: int = 20,
) -> float:
    """Share of the things of captions that the judge finds in what a model draws of them.

    Args:
        model: Draws them, 16 at a time.
        judge: Names what it sees.
        count: Captions, of scenes of two things that were never trained on or were; each from noise of its own.
        steps, guidance_scale, stepper: Of the sampling loop.
        seed: Of scenes and noise.
    """
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    scenes = [sample_scene(judge.world, draw, things=2, may=True) for _ in range(count)]
    right = 0
    for start in range(0, count, 16):
        batch = scenes[start : start + 16]
        noise = torch.randn((len(batch), *model.latent_shape()), generator=generator).to(model.device)
        branch = Branch(model.encode_prompt([caption(scene) for scene in batch]), guidance_scale=guidance_scale)
        latents = sample(
            model, noise, {"image": branch}, num_inference_steps=steps, stepper=stepper, generator=generator
        )[0]
        for scene, seen in zip(batch, judge.look(model.decode_latents(latents)), strict=True):
            right += sum(seen.thing(thing.concept) is not None for thing in scene.things)
    return right / (2 * count)


def measure(teacher: StableDiffusion, unet: Any, judge: SceneJudge, count: int) -> dict[str, float]:
    """Shares of things found: of the student at 4, 2 and 1 steps, of the teacher at 50 and at 4."""
    few = student_of(teacher, unet)
    figures = {f"student_{steps}": found(few, judge, count=count, steps=steps, stepper=LCM()) for steps in (4, 2, 1)}
    for steps in (50, 4):
        figures[f"teacher_{steps}"] = found(teacher, judge, count=count, steps=steps, guidance_scale=GUIDANCE_SCALE)
    return figures


def main(words: list[str] | None = None) -> None:
    """The command; `words` in place of the process's own arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m sfumato.emoji.training.turbo", description="Distil the embedded model for four steps."
    )
    parser.add_argument("minutes", type=float, help="training time, above 0")
    parser.add_argument("--teacher", type=Path, default=WEIGHTS, help="folder of the trained model")
    parser.add_argument("--atlas", type=Path, default=ATLAS, help="drawings of its world")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, help="points a step; default: 32, 256 on GPUs")
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--workers", type=int, help="threads that share a step; default: the cores, at most 4")
    parser.add_argument("--save-minutes", type=float, default=5, help="time between checkpoints")
    parser.add_argument("--pool", type=int, default=2_000, help="paths that are kept")
    parser.add_argument("--judged", type=int, default=64, help="captions of the figures at the end; 0: none")
    parser.add_argument("--folder", type=Path, help="checkpoints and logs; default: in the cache")
    parser.add_argument("--out", type=Path, help="folder of the student; default: FOLDER/turbo")
    arguments = parser.parse_args(words)
    if not 0 < arguments.minutes < 100_000:
        parser.error(f"the minutes must be above 0, got {arguments.minutes:g}")
    if not (arguments.teacher / "model_index.json").is_file():
        parser.error(f"--teacher {arguments.teacher}: no trained model in it")
    if not arguments.atlas.is_file():
        parser.error(f"--atlas {arguments.atlas}: no such file; write it with python -m sfumato.emoji.training.atlas")
    on_gpu, folder = arguments.device != "cpu", arguments.folder or cache_folder() / "turbo"
    batch, out = arguments.batch or (256 if on_gpu else 32), arguments.out or folder / "turbo"
    settings = Settings(
        minutes=arguments.minutes,
        batch=batch,
        learning_rate=arguments.learning_rate,
        ema_decay=0.995 if on_gpu else 0.99,
        folder=folder,
        device=arguments.device,
        seed=arguments.seed,
        save_minutes=arguments.save_minutes,
        workers=arguments.workers or (1 if on_gpu else min(4, os.cpu_count() or 1)),
    )
    model = load_model(str(arguments.teacher), device=arguments.device, dtype="fp32")
    assert isinstance(model, StableDiffusion)
    judge_file = arguments.teacher / "judge.safetensors"
    judge = load_scene_judge(judge_file).to(arguments.device) if judge_file.is_file() and arguments.judged else None
    teacher = Teacher(model, Atlas(arguments.atlas).to(arguments.device))
    console.print(f"turbo: {settings}")
    unet = train_turbo(
        teacher, settings, renewed=max(1, batch // 8), pool_size=arguments.pool, judge=judge, export_to=out
    )
    if judge is not None:
        figures = measure(model, unet, judge, arguments.judged)
        with written_whole(folder / "turbo-quality.json") as part:
            part.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        console.print(f"turbo: {figures}")


if __name__ == "__main__":
    main()
