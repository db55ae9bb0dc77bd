"""Scheduler classes are read as diffusers reads them, and few-step models start as they should."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from sfumato import generate
from sfumato.api.edit_plan import plan_edit
from sfumato.api.requests import EditRequest
from sfumato.errors import ModelError, UsageError
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.loading import load_model
from sfumato.models.scheduler_config import SCHEDULERS
from sfumato.models.schedules import Level
from sfumato.models.scheduling import suit
from sfumato.models.stable_diffusion import StableDiffusion
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.toy import toy_sd_folder, toy_sd_pipeline, toy_sdxl_folder
from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline

LEVELS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TURBO = LEVELS | {"set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "trailing"}


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_sd_folder(tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_sdxl_folder(tmp_path_factory.mktemp("model") / "plain")


def with_scheduler(folder: Path, to: Path, name: str, *, index: bool = True, **config: Any) -> Path:
    """A copy of a model folder with another scheduler; `index`: model_index.json names it, too."""
    shutil.copytree(folder, to)
    (to / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name, **config}))
    if index:
        listed = json.loads((to / "model_index.json").read_text())
        (to / "model_index.json").write_text(json.dumps(listed | {"scheduler": ["diffusers", name]}))
    return to


# --- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_silent_config_means_what_its_class_makes_of_it(name: str) -> None:
    theirs = getattr(diffusers, name)()
    ours = DiscreteVP.from_config({"_class_name": name})
    filled = DiscreteVP.from_config({**theirs.config, "_class_name": name})
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)
    torch.testing.assert_close(ours.alphas_cumprod, filled.alphas_cumprod)
    assert ours.prediction_type == theirs.config.prediction_type
    assert ours.final_alpha_bar == filled.final_alpha_bar
    assert ours.spacing == filled.spacing
    assert ours.steps_offset == filled.steps_offset
    assert ours.clip_sample_range == filled.clip_sample_range


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("EulerDiscreteScheduler", 1.0),
        ("EulerAncestralDiscreteScheduler", 1.0),
        ("LCMScheduler", 1.0),
        ("DDPMScheduler", 1.0),
        ("UniPCMultistepScheduler", 1.0),
        ("DDIMScheduler", None),
        ("PNDMScheduler", None),
    ],
)
def test_the_last_level_is_the_one_at_which_the_class_ends(name: str, last: float | None, told: bool) -> None:
    """Only some classes know `set_alpha_to_one`; where Euler's kept 2.9 % of the noise, a one-step image was grainy."""
    schedule = DiscreteVP.from_config({"_class_name": name, **LEVELS, "set_alpha_to_one": told})
    first = float(schedule.alphas_cumprod[0])
    assert schedule.steps(4)[-1].level_prev == Level.variance_preserving(last or (1.0 if told else first))
    sigmas = DiscreteVP.from_config({"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "sigma_min"})
    assert sigmas.final_alpha_bar < 1.0


def test_lcm_timesteps_equal_diffusers() -> None:
    scheduler = diffusers.LCMScheduler()
    schedule = DiscreteVP.from_config({"_class_name": "LCMScheduler", "timestep_spacing": "leading"})
    for steps in (1, 2, 3, 4, 6, 8, 50):
        scheduler.set_timesteps(steps)
        assert schedule.timesteps(steps) == scheduler.timesteps.tolist()
    with pytest.raises(UsageError, match=r"\[1, 50\].*got 51"):
        schedule.timesteps(51)


@pytest.mark.parametrize("steps", [400, 501, 600, 700, 999])
def test_many_steps_start_at_the_noisy_end(steps: int) -> None:
    """501 steps of one timestep each started at t = 501, alpha_bar 0.275."""
    schedule = DiscreteVP.from_config(LEVELS | {"steps_offset": 1})
    timesteps = schedule.timesteps(steps)
    assert len(set(timesteps)) == steps
    assert timesteps[0] >= 990
    assert schedule.alpha_bar(timesteps[0]) < 0.006
    assert timesteps[-1] == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "EDMDPMSolverMultistepScheduler is .*EDM.*known are"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler is .*EDM"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler is of a flow-matching"),
        ({"_class_name": "MyScheduler"}, "'MyScheduler' is not known; known are .*DDIMScheduler"),
        ({"_class_name": 3}, "'3' is not known"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "continuous"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "dynamic thresholding"),
        ({"num_train_timesteps": 10**12}, r"num_train_timesteps .*\[1, 100000\]"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps .*whole number"),
        ({"beta_start": float("nan")}, "beta_start .*number, got nan"),
        ({"steps_offset": -1}, "steps_offset"),
        ({"trained_betas": ["a"]}, "trained_betas"),
        ({"beta_schedule": []}, "beta_schedule"),
        ({"prediction_type": []}, "prediction_type"),
    ],
)
def test_configs_that_are_not_understood_are_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DiscreteVP.from_config(config)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "NewScheduler"])
def test_folders_with_a_scheduler_that_is_not_known_are_refused(
    sdxl: Path, tmp_path: Path, name: str, index: bool
) -> None:
    folder = with_scheduler(sdxl, tmp_path / "model", name, index=index)
    with pytest.raises(ModelError, match=rf"{name}.*known are .*DDIMScheduler.*give a model"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("index", [True, False])
def test_a_replaced_scheduler_is_told(sd: Path, tmp_path: Path, index: bool) -> None:
    folder = with_scheduler(sd, tmp_path / "model", "PNDMScheduler", index=index, **LEVELS)
    model = load_model(folder, device="cpu")
    assert model.notes == ("the model's own scheduler PNDMScheduler is replaced by DDIM at the same noise levels",)
    assert model.schedule.final_alpha_bar == float(model.schedule.alphas_cumprod[0])  # the class's own default
    assert generate(model, "a cat", size=(64, 64), num_inference_steps=1).notes == model.notes
    assert load_model(sd, device="cpu").notes == ()


def test_a_ready_pipeline_keeps_the_meaning_of_its_own_scheduler() -> None:
    pipeline = toy_sd_pipeline()
    pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    model = load_model(pipeline)
    assert model.schedule.final_alpha_bar == 1.0
    pipeline.scheduler = diffusers.EDMEulerScheduler()
    with pytest.raises(ModelError, match="EDMEulerScheduler"):
        load_model(pipeline)


# --- few-step models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "name", "scheduler", "config", "steps"),
    [
        ("sd", "model", "EulerDiscreteScheduler", TURBO, 1),
        ("sdxl", "model", "EulerAncestralDiscreteScheduler", TURBO, 4),
        ("sdxl", "lightning_8step", "EulerDiscreteScheduler", TURBO, 8),
        ("sd", "model", "LCMScheduler", LEVELS, 4),
        ("sd", "model", "TCDScheduler", LEVELS, 4),
        ("sd", "sd-turbo", "DDIMScheduler", LEVELS, 1),
        ("sdxl", "sdxlTurbo", "DDIMScheduler", LEVELS, 4),
        ("sdxl", "Hyper-SDXL-2steps", "DDIMScheduler", LEVELS, 2),
        ("sd", "dreamshaper-lcm", "DDIMScheduler", LEVELS, 4),
    ],
)
def test_few_step_models_start_with_few_steps_and_without_guidance(
    folder: str, name: str, scheduler: str, config: Any, steps: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = load_model(with_scheduler(request.getfixturevalue(folder), tmp_path / name, scheduler, **config))
    assert (model.num_inference_steps, model.guidance_scale, model.few_steps) == (steps, 1.0, True)
    assert "a few-step model" in model.notes[-1]
    assert f"{steps} step" in model.notes[-1]
    assert model.schedule.timesteps(1) == [999]
    assert model.schedule.timesteps(4)[1] == (759 if model.schedule.spacing == "lcm" else 749)
    own = {"TCDScheduler": "tcd", "EulerAncestralDiscreteScheduler": "euler-ancestral"}
    assert model.sampler == own.get(scheduler, "lcm" if model.schedule.spacing == "lcm" else "ddim")


@pytest.mark.parametrize(
    ("name", "predicts"), [("sdxl_lightning_1step_x0", "x0"), ("sdxl_lightning_1step", "noise"), ("x0", "noise")]
)
def test_the_one_step_model_of_lightning_predicts_clean_latents(name: str, predicts: str) -> None:
    """Its configuration says noise, as that of the model it was distilled from; only its name says otherwise."""
    model = StableDiffusion.from_pipeline(toy_sd_pipeline(), name=name, revision="x")
    suit(model, "EulerDiscreteScheduler", names=[f"{name}.safetensors"])
    assert model.schedule.target == predicts
    assert any("predicts clean latents" in note for note in model.notes) == (predicts == "x0")


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_few_step_flow_has_no_guidance_of_the_model_it_was_distilled_from(family: str) -> None:
    """SD3's flowedit is guided by 13.5 and 3.5; one that takes its guidance as an input keeps it."""
    model = load_model(toy_sd3_pipeline() if family == "sd3" else toy_flux_pipeline())
    own = model.guidance_scale
    suit(model, "FlowMatchEulerDiscreteScheduler", names=["large-turbo"])
    assert (model.few_steps, model.num_inference_steps) == (True, 4)
    assert model.guidance_scale == (1.0 if family == "sd3" else own)
    assert ("flowedit" in model.method_guidance) == ("flowedit" in model.method_options) == (family == "flux")
    assert f"guidance {model.guidance_scale:g}" in model.notes[-1]


@pytest.mark.parametrize("name", ["hyperrealistic", "lcmoon", "model"])
@pytest.mark.parametrize(
    ("scheduler", "config"),
    [
        ("EulerDiscreteScheduler", LEVELS | {"timestep_spacing": "leading"}),
        ("DDIMScheduler", LEVELS | {"timestep_spacing": "trailing"}),
        ("EulerDiscreteScheduler", TURBO | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ],
)
def test_other_models_keep_their_fifty_steps(sd: Path, tmp_path: Path, name: str, scheduler: str, config: Any) -> None:
    model = load_model(with_scheduler(sd, tmp_path / name, scheduler, **config))
    assert (model.num_inference_steps, model.guidance_scale, model.few_steps) == (50, 7.5, False)


def test_one_turbo_step_leaves_no_noise(sd: Path, tmp_path: Path) -> None:
    """One step of Euler is the clean guess itself."""
    model = load_model(with_scheduler(sd, tmp_path / "model", "EulerDiscreteScheduler", **TURBO), device="cpu")
    noise = torch.randn(1, *model.latent_shape((64, 64)), generator=torch.Generator().manual_seed(0))
    condition = model.encode_prompt("a cat")
    with torch.no_grad():
        output = model.predict(noise, 999, condition)
    clean = model.schedule.split(output, noise, model.schedule.level(999)).x0
    torch.testing.assert_close(sample(model, noise, {"sample": Branch(condition)})[0], clean)


# --- guidance as an input --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lcm_pipeline() -> Any:
    pipeline = toy_sd_pipeline(time_cond_proj_dim=32)
    pipeline.scheduler = diffusers.LCMScheduler()
    torch.nn.init.normal_(pipeline.unet.time_embedding.cond_proj.weight, generator=torch.Generator().manual_seed(0))
    return pipeline


def test_a_network_that_takes_its_guidance_is_told_it(lcm_pipeline: Any) -> None:
    model = load_model(lcm_pipeline)
    assert (model.num_inference_steps, model.guidance_scale, model.takes_guidance) == (4, 8.5, True)
    theirs = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
    latents = torch.randn(2, *model.latent_shape((64, 64)), generator=torch.Generator().manual_seed(0))
    told = model.encode_prompt(["a cat", "a dog"])
    scales = torch.tensor([8.5, 2.0])
    expected = lcm_pipeline.unet(
        latents,
        999,
        told.text,
        timestep_cond=theirs(None, scales - 1, 32),
        return_dict=False,  # type: ignore[arg-type]
    )[0]
    ours = model.predict(latents, 999, model.with_guidance(told, scales))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.predict(latents, 999, told), expected, atol=1e-2)


def test_such_a_network_starts_at_its_own_timesteps_whatever_its_scheduler() -> None:
    model = load_model(toy_sd_pipeline(time_cond_proj_dim=32))
    assert model.schedule.timesteps(4) == [999, 759, 499, 259]
    assert model.schedule.final_alpha_bar == 1.0


def test_such_a_network_is_edited_at_the_guidance_of_the_method(lcm_pipeline: Any) -> None:
    """Virtual inversion gives the network 1 and 2; 8.5 beside 1 would be far from what it was made for."""
    model, image = load_model(lcm_pipeline), Image.radial_gradient("L").resize((32, 32)).convert("RGB")
    prompts: dict[str, Any] = {"source_prompt": "a cat", "target_prompt": "a dog"}
    for method, scale in [("virtual-inversion", 2.0), ("chord-edit", 1.0), ("sdedit", 8.5)]:
        plan = plan_edit(model, EditRequest(image=image, method=method, **prompts))
        assert plan.request.guidance_scale == scale
    turbo = StableDiffusion.from_pipeline(toy_sd_pipeline(), name="toy", revision="x")
    suit(turbo, "DDIMScheduler", names=["sd-turbo"])
    assert plan_edit(turbo, EditRequest(image=image, method="virtual-inversion", **prompts)).request.guidance_scale == 1


def test_such_a_network_is_guided_in_one_row_a_step(lcm_pipeline: Any) -> None:
    model = load_model(lcm_pipeline)
    result = generate(model, "a cat", size=(64, 64))
    assert result.cost.evaluations == 4
    other = generate(model, "a cat", size=(64, 64), guidance_scale=2.0)
    assert result.image.tobytes() != other.image.tobytes()
    with pytest.raises(UsageError, match="has no unconditional prediction"):
        generate(model, "a cat", size=(64, 64), negative_prompt="a dog")


# --- autoencoders ----------------------------------------------------------------------------------------------------


def test_means_and_spreads_of_the_latents_are_honoured() -> None:
    pipeline = toy_sd_pipeline()
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = StableDiffusion.from_pipeline(pipeline, name="toy", revision="x").encode_image(pixels)
    mean, std = torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 0.5, 4.0])
    pipeline.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    model = StableDiffusion.from_pipeline(pipeline, name="toy", revision="x")
    scale = pipeline.vae.config.scaling_factor
    latents = model.encode_image(pixels)
    expected = (plain / scale - mean.view(1, -1, 1, 1)) * scale / std.view(1, -1, 1, 1)
    torch.testing.assert_close(latents, expected)
    with torch.no_grad():
        theirs = pipeline.vae.decode(latents * std.view(1, -1, 1, 1) / scale + mean.view(1, -1, 1, 1)).sample
    torch.testing.assert_close(model.decode_latents(latents), theirs)
