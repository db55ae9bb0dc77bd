"""Runners return every output that a case of their kind may list, whatever its control: small cases of our own.

Their numbers were computed by this library: regression guards, not the authors' numbers. What each case shows is that
its outputs are there, in the stored shapes, and that the options it states reach the method.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.attention.blend import LocalBlend
from sfumato.attention.cross import CrossAttentionMaps
from sfumato.conditions import align
from sfumato.errors import UsageError
from sfumato.models.schedules import Level, Step
from tests.conformance.golden import Case, compare
from tests.conformance.registry import find_runner

SOURCE, TARGET, SWAPPED = "a bowl of soup", "a bowl of pea soup with croutons", "a bowl of rice"


def small_case(
    folder: Path, kind: tuple[str, str], prompts: Any, parameters: dict[str, Any], inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
) -> Case:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in (inputs | outputs).items()}, folder / "tensors.safetensors"
    )
    description = {
        "system": kind[0], "case": "small", "kind": kind[1], "prompts": prompts, "parameters": parameters,
        "outputs": dict.fromkeys(outputs, "?"), "tolerance": 1e-5,
    }  # fmt: skip
    (folder / "case.json").write_text(json.dumps(description), encoding="utf-8")
    return Case.read(folder / "case.json")


def problems(case: Case, model: Any) -> list[str]:
    run = find_runner(case.system, case.kind)
    assert run is not None
    return [str(found) for found in compare(case, run(case, model)) if found.problem]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("control", "target"), [("refine", TARGET), ("replace", SWAPPED)])
def test_cycle_diffusion_returns_mapper_and_alphas_of_any_control(
    toy_model: Any, tmp_path: Path, control: str, target: str
) -> None:
    parameters = {
        "num_steps": 4, "eta": 0.1, "source_guidance_scale": 1.0, "target_guidance_scale": 3.0, "control": control,
        "cross_replace_steps": [0.0, 0.5], "self_replace_steps": 0.4, "self_replace_max_pixels": 256,
    }  # fmt: skip
    inputs = {
        "x_0": noise(1, 4, 16, 16),
        "noise_T": noise(1, 4, 16, 16, seed=1),
        "posterior_noise": noise(2, 4, 16, 16),
    }
    if control == "refine":
        mapper, alphas = align.refine_mapper(toy_model.text, SOURCE, target, released=True)
        outputs = {"mapper": mapper[None], "alphas": alphas.view(1, 1, 1, 77)}  # the shapes of two ports
    else:
        outputs = {"mapper": align.replace_mapper(toy_model.text, SOURCE, target, released=True)[None]}
    outputs["latents_per_step"] = torch.zeros(3, 2, 4, 16, 16)
    prompts = {"source": SOURCE, "target": target}
    kind = ("cycle-diffusion", "zero-shot-edit-attention-control")
    case = small_case(tmp_path, kind, prompts, parameters, inputs, outputs)
    assert [text.split(":")[0] for text in problems(case, toy_model)] == ["latents_per_step"]  # zeros are no latents

    run = find_runner(*kind)
    assert run is not None
    results = run(case, toy_model)
    assert torch.equal(results["latents_per_step"][-1, 1], results["edited"][0])


def test_null_text_takes_a_pair_of_blend_thresholds(toy_model: Any, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {
        "guidance_scale": 3.0, "num_inner_steps": 1, "early_stop_epsilon": 1e-5, "edit": "refine+reweight",
        "num_steps": 3, "cross_replace_steps": {"default_": 0.8}, "self_replace_steps": 0.5,
        "self_replace_max_tokens": 256, "equalizer": {"croutons": 2.0},
        "local_blend": {"words": ["soup", "soup"], "subtract_words": ["bowl", "bowl"], "threshold": [0.5, 0.97]},
    }  # fmt: skip
    inputs = {"source_latent": noise(1, 4, 16, 16), "timesteps": torch.tensor(toy_model.schedule.timesteps(3))}
    kind = ("null-text-inversion", "edit")
    masks = {}
    for threshold in ([0.5, 0.97], [0.5, 0.5], 0.5, [0.97, 0.5]):
        parameters["local_blend"]["threshold"] = threshold
        outputs = {"blend_mask": torch.zeros(3, 16, 16), "equalizer": torch.zeros(1, 77), "mapper": torch.zeros(1, 77)}
        case = small_case(tmp_path, kind, [SOURCE, TARGET], parameters, inputs, outputs)
        run = find_runner(*kind)
        assert run is not None
        results = run(case, toy_model)
        assert set(case.outputs) <= set(results)
        masks[str(threshold)] = results["blend_mask"]
        assert results["blend_mask"].shape == (3, 16, 16)
        assert results["equalizer"].amax() == 2.0
    assert torch.equal(masks["0.5"], masks["[0.5, 0.5]"])
    assert float(masks["[0.5, 0.97]"].mean()) > float(masks["0.5"].mean())  # less is taken away
    assert not torch.equal(masks["[0.5, 0.97]"], masks["[0.97, 0.5]"])  # the order is: with pooling, without


def test_the_first_threshold_is_of_the_pooled_map_and_the_second_of_the_subtracted() -> None:
    maps = CrossAttentionMaps()
    maps.total = torch.rand(2, 1, 16, 16, 4, generator=torch.Generator().manual_seed(0))
    words, subtract = torch.eye(4)[[1, 1]], torch.eye(4)[[2, 2]]
    blend = LocalBlend(maps, words, subtract=subtract, threshold=(0.9, 0.6))
    blend(torch.zeros(2, 1, 4, 16, 16), Step(0, 1, 1, -1, Level(0.7, 0.7), Level(1.0, 0.0)))

    def union(word: int, threshold: float, pooled: bool) -> Tensor:
        heat = maps.total[:, 0, ..., word]  # type: ignore[index]
        if pooled:
            heat = torch.nn.functional.max_pool2d(heat, 3, 1, 1)
        inside = heat / heat.amax(dim=(1, 2), keepdim=True) > threshold
        return inside[0] | inside[1]

    assert blend.mask is not None
    assert torch.equal(blend.mask[0, 0], union(1, 0.9, True) & ~union(2, 0.6, False))


@pytest.mark.parametrize("threshold", [1.5, (0.3, -0.1), (0.3,), (0.1, 0.2, 0.3), float("nan")])
def test_a_blend_threshold_outside_the_unit_interval_is_refused(threshold: Any) -> None:
    with pytest.raises(UsageError, match=r"blend threshold .*\[0, 1\]"):
        LocalBlend(CrossAttentionMaps(), torch.ones(2, 4), threshold=threshold)
