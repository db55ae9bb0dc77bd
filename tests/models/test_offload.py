"""Models whose weights come to the device when they are called, on the processor and on a device without values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato
from sfumato.errors import ModelError, UsageError
from sfumato.models import loading
from sfumato.models.loading import adapter_for, load_model
from sfumato.models.offload import Weights, bring, offload
from sfumato.models.speed import OFFLOADS, Speed
from tests.models.test_compiling import compiled, nothing_compiled
from tests.models.test_placed import whole_models
from tests.toy import toy_sd_pipeline, toy_sdxl_pipeline
from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights
MAKERS = {"sd": toy_sd_pipeline, "sdxl": toy_sdxl_pipeline, "sd3": toy_sd3_pipeline, "flux": toy_flux_pipeline}
CPU, NO_VALUES = torch.device("cpu"), torch.device("meta")
"""Where all goes well, and where an operation on tensors of two devices raises, as on a GPU."""


def offloaded(pipeline: Any, kind: str, device: torch.device = CPU) -> Any:
    """What `load_model(..., offload=kind)` makes of what it has loaded."""
    return adapter_for(pipeline, name="toy", revision="toy", device=device, speed=Speed(offload=kind))


def places(model: Any) -> list[set[str]]:
    """The devices that each network's weights are on."""
    return [
        {tensor.device.type for tensor in (*network.parameters(), *network.buffers())} for network in model.networks
    ]


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("kind", OFFLOADS)
def test_an_offloaded_model_gives_what_the_plain_one_gives(family: str, kind: str) -> None:
    plain, model = load_model(MAKERS[family]()), offloaded(MAKERS[family](), kind)
    method = "flowedit" if plain.schedule.target == "flow" else "prompt-to-prompt"
    results = [
        sfumato.edit(
            one, torch.zeros(3, 64, 64), source_prompt="a cat", target_prompt="a dog", method=method,
            num_inference_steps=2,
        )
        for one in (plain, model)
    ]  # fmt: skip
    assert results[0].image.tobytes() == results[1].image.tobytes()


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("kind", OFFLOADS)
def test_one_network_at_a_time_is_on_the_device(family: str, kind: str) -> None:
    model = offloaded(MAKERS[family](), kind, NO_VALUES)
    assert model.device == NO_VALUES
    assert places(model) == [{"cpu"}] * len(model.networks)
    latents = torch.zeros(model.latent_shape(), device=NO_VALUES)[None]
    with torch.no_grad():
        model.decode_latents(latents)
        assert places(model)[:2] == [{"cpu"}, {"meta"}]
        assert model.encode_image(torch.zeros(1, 3, 64, 64)).device == NO_VALUES
        condition = model.encode_prompt("a cat")
        assert places(model)[:2] == [{"cpu"}, {"cpu"}]
        assert model.predict(latents, 500, condition).device == NO_VALUES
    denoiser, *others = places(model)
    assert others == [{"cpu"}] * len(others)
    assert denoiser == ({"meta"} if kind == "model" else {"meta", "cpu"})  # of blocks between their calls


@pytest.mark.parametrize("kind", OFFLOADS)
def test_gradients_pass_through_networks_that_have_gone(kind: str) -> None:
    """As Langevin guidance on images wants them; a network whose weights were moved away would raise on `NO_VALUES`."""

    def slope(model: Any) -> Tensor:
        latents = torch.ones(1, 4, 16, 16, device=model.device, requires_grad=True)
        with torch.enable_grad():
            pixels = model.decode_latents(model.predict(latents, 500, model.encode_prompt("a cat")))
        model.encode_prompt("another network is called")
        (gradient,) = torch.autograd.grad(pixels.square().sum(), latents)
        return gradient

    assert slope(offloaded(toy_sd_pipeline(), kind, NO_VALUES)).device == NO_VALUES
    assert torch.equal(slope(offloaded(toy_sd_pipeline(), kind)), slope(load_model(toy_sd_pipeline())))


def test_a_network_comes_once_for_all_its_calls_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model, come, came = offloaded(toy_sd_pipeline(), "model"), Weights.come, []

    def counted(weights: Weights) -> None:
        came.append(weights)
        come(weights)

    monkeypatch.setattr(Weights, "come", counted)
    sfumato.edit(model, torch.zeros(3, 64, 64), source_prompt="a cat", target_prompt="a dog", num_inference_steps=3)
    vae, text, unet = list(dict.fromkeys(came))
    assert came.count(unet) <= 2  # inversion and sampling
    assert len(came) <= 6
    assert text is not vae


def test_an_autoencoder_comes_before_free_memory_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.models import memory

    model, seen = offloaded(toy_sd_pipeline(), "model", NO_VALUES), []
    monkeypatch.setattr(memory, "free_memory", lambda device: seen.append(places(model)))
    bring(model.unet)
    with torch.no_grad():
        model.decode_latents(torch.zeros(1, 4, 8, 8, device=NO_VALUES))
    assert seen == [[{"cpu"}, {"meta"}, {"cpu"}]]


def test_an_autoencoder_that_accelerate_brings_comes_before_free_memory_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accelerate import hooks

    from sfumato.models import memory

    pipeline, seen, come = toy_sd_pipeline(), list[Any](), hooks.CpuOffload.pre_forward

    def noted(hook: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(module)
        return come(hook, module, *args, **kwargs)

    whole_models(pipeline)
    model: Any = load_model(pipeline)
    monkeypatch.setattr(hooks.CpuOffload, "pre_forward", noted)
    monkeypatch.setattr(memory, "free_memory", lambda device: seen.append("read"))
    with torch.no_grad():
        model.decode_latents(torch.zeros(1, 4, 8, 8))
    assert seen[:2] == [model.vae, "read"]


def test_blocks_go_also_when_one_raises() -> None:
    model = offloaded(toy_sd_pipeline(), "group", NO_VALUES)
    condition, layer = model.encode_prompt("a cat"), "mid_block.resnets.0.conv1"

    def fail(name: str, output: Tensor) -> Tensor:
        raise KeyError(name)

    with pytest.raises(KeyError), model.feature_hook([layer], fail), torch.no_grad():
        model.predict(torch.zeros(1, 4, 16, 16), 500, condition)
    assert model.unet.get_submodule(layer).weight.device == CPU
    with torch.no_grad():
        model.predict(torch.zeros(1, 4, 16, 16), 500, condition)


def test_a_tensor_in_two_places_is_one_on_the_device() -> None:
    module = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
    module["second"].weight = module["first"].weight
    weights = Weights(module.modules(), NO_VALUES)
    weights.come()
    assert module["second"].weight is module["first"].weight
    assert {tensor.device for tensor in module.parameters()} == {NO_VALUES}
    weights.go()
    assert module["second"].weight is module["first"].weight
    assert {tensor.device for tensor in module.parameters()} == {CPU}


def test_compiled_blocks_are_not_compiled_anew_when_they_come_again() -> None:
    model, graphs = compiled(toy_sd_pipeline())
    offload(model, "group", CPU)
    condition = model.encode_prompt("a cat")

    def predicted(one: Any) -> Tensor:
        with torch.no_grad():
            return one.predict(torch.ones(1, 4, 16, 16), 500, condition)  # type: ignore[no-any-return]

    expected, first = predicted(load_model(toy_sd_pipeline())), predicted(model)
    with nothing_compiled():
        assert torch.equal(predicted(model), first)
    assert torch.equal(first, expected)
    assert graphs


@pytest.mark.parametrize("kind", OFFLOADS)
def test_load_model_leaves_the_weights_on_the_processor(
    kind: str, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "resolve_device", lambda device: NO_VALUES)  # instead of a GPU
    model = load_model(tiny_sd, offload=kind)
    assert (model.device, model.dtype) == (NO_VALUES, torch.float16)
    assert places(model) == [{"cpu"}] * 3
    assert model.encode_prompt("a cat").text.device == NO_VALUES


def test_offload_is_refused_where_it_has_no_use() -> None:
    with pytest.raises(UsageError, match="offload is for a GPU; on the processor the weights are already there"):
        load_model("emoji", device="cpu", offload="model")
    with pytest.raises(UsageError, match=r"offload must be one of model, group, got 'all'"):
        load_model("emoji", offload="all")
    with pytest.raises(UsageError, match=r"offload is for models loaded here; call pipeline.enable_model_cpu_offload"):
        load_model(toy_sd_pipeline(), offload="model")
    model: Any = load_model(toy_sd_pipeline())
    model.unet = nn.Linear(1, 1)
    with pytest.raises(ModelError, match=r"has no blocks .*: use offload='model'"):
        offload(model, "group", CPU)
