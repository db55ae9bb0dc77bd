"""My inversion (Author et al., 2025), https://arxiv.org/abs/2501.00000."""

import torch

from sfumato.inversions.method import inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.schedules import add_noise
from sfumato.sampling.draws import draw_noise


@inversion(
    "my-inversion",
    summary="Brings the image to every level with one draw of noise.",
    when="When to prefer it to the others.",
    cost="None.",
)
def my_inversion(task: InversionTask) -> Inversion:
    """Noise, and the image at each level with it."""
    noise = draw_noise(task.clean.shape, task.generator, task.clean)
    latents = [add_noise(task.clean, noise, step.level) for step in task.steps]
    return task.inversion("my-inversion", latents[0], trajectory=torch.stack([task.clean, *reversed(latents)]))
