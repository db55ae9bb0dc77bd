"""Diffusions read as rectified flows, `emoji-flow` among them."""

from typing import Any

import pytest
import torch
from PIL import Image

import sfumato
from sfumato.edits.default_method import default_method
from sfumato.edits.method import METHODS
from sfumato.emoji import EXAMPLES
from sfumato.errors import ModelError
from sfumato.metrics.psnr import psnr
from sfumato.models.flow_reading import read_as_flow
from sfumato.models.loading import traits_named
from sfumato.models.schedules import Level, add_noise
from sfumato.models.sdxl import StableDiffusionXL
from sfumato.models.stable_diffusion import StableDiffusion
from sfumato.models.traits import traits_of, unmet
from tests.toy import toy_sd_pipeline, toy_sdxl_pipeline


@pytest.fixture(scope="module", params=["noise", "velocity", "xl"])
def model(request: pytest.FixtureRequest) -> StableDiffusion:
    if request.param == "xl":
        return StableDiffusionXL.from_pipeline(toy_sdxl_pipeline(), name="xl", revision="1")
    pipeline = toy_sd_pipeline(prediction_type="v_prediction" if request.param == "velocity" else "epsilon")
    return StableDiffusion.from_pipeline(pipeline, name="toy", revision="1")


def noisy(model: StableDiffusion, level: Level) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x0, noise = torch.randn(2, 2, *model.latent_shape((64, 64)), generator=generator)
    return add_noise(x0, noise, level)


@pytest.mark.parametrize("time", [0, 57, 500, 999])
def test_at_a_timestep_it_says_the_clean_latents_and_the_noise_of_the_diffusion(
    model: StableDiffusion, time: int
) -> None:
    flow, condition = read_as_flow(model), model.encode_prompt(["a cat", "a dog"])
    level = model.schedule.level(time)
    latents = noisy(model, level)
    expected = model.schedule.split(model.predict(latents, time, condition), latents, level)
    total = level.signal + level.noise
    sigma = level.noise / total
    found = flow.schedule.split(
        flow.predict(latents / total, 1000 * sigma, condition), latents / total, Level(1 - sigma, sigma)
    )
    for mine, theirs in ((found.x0, expected.x0), (found.eps, expected.eps)):
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-4


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.4, 0.6, 0.99, 1.0])
def test_every_level_has_a_velocity_and_fits_the_latents(model: StableDiffusion, sigma: float) -> None:
    flow, condition = read_as_flow(model), model.encode_prompt(["a cat"] * 2)
    latents = noisy(model, Level(1 - sigma, sigma))
    output = flow.predict(latents, 1000 * sigma, condition)
    said = flow.schedule.split(output, latents, flow.schedule.level(1000 * sigma))
    assert torch.isfinite(said.x0).all()
    assert torch.isfinite(said.eps).all()
    assert torch.allclose((1 - sigma) * said.x0 + sigma * said.eps, latents, atol=1e-4)


def test_rows_of_several_times_are_those_of_single_calls(model: StableDiffusion) -> None:
    flow, condition = read_as_flow(model), model.encode_prompt(["a cat", "a dog"])
    latents = noisy(model, Level(0.5, 0.5))
    both = flow.predict(latents, [300.0, 800.0], condition)
    assert flow.evaluations == 2
    for row, time in enumerate((300.0, 800.0)):
        one = flow.predict(latents[row : row + 1], time, condition[row : row + 1])
        assert torch.allclose(both[row : row + 1], one, atol=1e-4)


def test_the_diffusion_stays_as_it_is_and_shares_its_weights() -> None:
    model = StableDiffusion.from_pipeline(toy_sd_pipeline(), name="toy", revision="1")
    flow = read_as_flow(model)
    assert flow.unet is model.unet
    assert (model.schedule.target, flow.schedule.target) == ("noise", "flow")
    assert (model.revision, flow.revision) == ("1", "1+flow")
    assert traits_of(flow) == traits_of(model) - {"diffusion"} | {"flow"}


def test_what_is_no_plain_diffusion_is_refused(tiny_model: Any) -> None:
    flow = read_as_flow(tiny_model)
    with pytest.raises(ModelError, match="cannot be read as a flow"):
        read_as_flow(flow)
    few = StableDiffusion.from_pipeline(toy_sd_pipeline(), name="quick", revision="1")
    few.few_steps = True
    with pytest.raises(ModelError, match="quick cannot be read as a flow"):
        read_as_flow(few)


def test_the_embedded_flow_keeps_what_an_edit_does_not_name() -> None:
    model = sfumato.load_model("emoji-flow", device="cpu")
    assert (model.name, model.guidance_scale, model.encoder) == ("emoji-flow", 3.0, "emoji-clip")
    assert traits_named("emoji-flow") == traits_of(model)
    assert default_method("emoji-flow") == default_method(model) == "flowedit"
    image = Image.open(EXAMPLES / "fox-and-pizza.png").convert("RGB")
    ground = "and a pizza on a striped blue background"
    edited = sfumato.edit(
        model, image, source_prompt=f"a fox {ground}", target_prompt=f"a dog {ground}", num_inference_steps=6
    )
    fox, pizza = (8, 16, 70, 76), (70, 64, 120, 112)
    kept, changed = (psnr(edited.image.crop(box), image.crop(box), data_range=255) for box in (pizza, fox))
    assert kept > 22.0
    assert changed < kept - 3.0


def test_controls_of_cross_attention_and_decoders_serve_it(tiny_model: Any) -> None:
    flow, image = read_as_flow(tiny_model), Image.new("RGB", (64, 64), (200, 30, 30))
    for method in ("prompt-to-prompt", "masactrl", "plug-and-play", "pix2pix-zero", "dnaedit"):
        assert not unmet(METHODS[method].needs, flow)
        inversion = "ddim" if method == "pix2pix-zero" else None  # its own is for diffusions alone
        edited = sfumato.edit(
            flow, image, source_prompt="a cat", target_prompt="a dog", method=method, inversion=inversion,
            num_inference_steps=2,
        )  # fmt: skip
        assert edited.image.size == (64, 64)
