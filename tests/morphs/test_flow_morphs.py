"""Morphs on flow models: the ends are the images' replays, and attention of image and text is interpolated."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from sfumato.attention.interpolate import InterpolationForm
from sfumato.morphs.attention_interpolation import attention_interpolation
from sfumato.morphs.latent_slerp import latent_slerp
from sfumato.morphs.method import MORPHS
from sfumato.morphs.path import Ends
from sfumato.morphs.task import MorphTask
from tests.served import FLOW, on
from tests.toy_flow import short_flux, short_sd3


@pytest.fixture(scope="module", params=["flux", "sd3"])
def task(request: pytest.FixtureRequest) -> MorphTask:
    model = short_flux() if request.param == "flux" else short_sd3()
    latents = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(3))
    ends = Ends(latents, latents, ("a photo of a cat", "a photo of a dog"))
    return MorphTask(model, ends, None, torch.Generator(), num_inference_steps=3)  # type: ignore[arg-type]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("inversion", ["ddim", "fireflow"])
def test_slerp_ends_at_the_replays_of_both_images(task: MorphTask, inversion: Any) -> None:
    draw = latent_slerp(task, inversion=inversion).draw
    frames = draw([0.0, 0.4, 1.0])
    for k, weight in enumerate((0.0, 0.4, 1.0)):
        close(frames[[k]], draw([weight]))
    assert float((frames[0] - task.ends.latents[0]).norm()) < float((frames[0] - task.ends.latents[1]).norm())


@pytest.mark.parametrize("kind", get_args(InterpolationForm))
def test_interpolated_attention_leaves_the_ends_and_changes_what_is_between(task: MorphTask, kind: Any) -> None:
    weights = [0.0, 0.5, 1.0]
    plain = attention_interpolation(task, warmup_ratio=0.0, kind=kind).draw(weights)
    mixed = attention_interpolation(task, warmup_ratio=1.0, kind=kind).draw(weights)
    close(mixed[0], plain[0])
    close(mixed[2], plain[2])
    assert not torch.allclose(mixed[1], plain[1], atol=1e-3)


def test_morphs_that_a_flow_does_not_serve_say_so(task: MorphTask) -> None:
    assert "diffmorpher" not in on(FLOW, MORPHS)
    assert {"slerp", "attention-interpolation", "crossfade"} <= set(on(FLOW, MORPHS))
