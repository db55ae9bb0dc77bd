"""Every method with every inversion: a pair runs and keeps its identity, or is refused with the true reason."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.edits.method import METHODS
from sfumato.errors import InversionError, UsageError
from sfumato.images import to_images
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from tests.served import DIFFUSION, FLOW, on
from tests.toy_flow import short_flux

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"
STEPS = 2
PAIRS = [(method, inversion) for method in on(DIFFUSION, METHODS) for inversion in on(DIFFUSION, INVERSIONS)]
FROM_THE_PICTURE = [name for name in on(DIFFUSION, METHODS) if METHODS[name].from_image]
ON_A_FLOW = [
    (method, inversion)
    for method in on(FLOW, METHODS)
    for inversion in on(FLOW, INVERSIONS)
    if not (set(METHODS[method].needs) | set(INVERSIONS[inversion].needs)) <= DIFFUSION
    and inversion in METHODS[method].starts
]
REFUSED = [(m, i) for m, i in PAIRS if i not in METHODS[m].inversions]
SERVED = [(m, i) for m, i in PAIRS if i in METHODS[m].starts]
# Where the source comes back by construction: pinned, or replayed by an exact rule
EXACT = {"direct", "bdia", "edit-friendly", "dpm-encoder"}
QUICK: dict[str, dict[str, Any]] = {
    "auto": {"tries": 2, "draws": 1},
    "delta-denoising": {"iterations": 2},
    "langevin": {"num_langevin_steps": 1, "energy": "stay-near"},
    "diffedit": {"contrast_draws": 2},
    "pix2pix-zero": {"attention_guidance": 0.0},
}
QUICK_INVERSIONS: dict[str, dict[str, Any]] = {
    "null-text": {"inner_steps": 1, "guidance_scale": 2.0},
    "negative-prompt": {"guidance_scale": 2.0},
    "fixed-point": {"iterations": 2},
    "regularised-ddim": {"regularisation_rounds": 0},  # a random network's noise is far from normal
}


def picture() -> Image.Image:
    """32 x 32 pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def inversions(toy_model: Any) -> dict[str, Inversion]:
    """One of each, of the same image."""
    return {
        name: sfumato.invert(
            toy_model, picture(), prompt=SOURCE, method=name, num_inference_steps=STEPS,
            **QUICK_INVERSIONS.get(name, {}),
        ).inversion
        for name in on(DIFFUSION, INVERSIONS)
    }  # fmt: skip


@pytest.fixture(scope="module")
def flow() -> Any:
    return short_flux()


def edited(model: Any, method: str, **arguments: Any) -> Any:
    given: dict[str, Any] = {
        "source_prompt": SOURCE, "target_prompt": TARGET, "num_inference_steps": STEPS, "guidance_scale": 3.0,
        **QUICK.get(method, {}), **arguments,
    }  # fmt: skip
    return sfumato.edit(model, picture(), method=method, **given)


def test_the_table_is_whole() -> None:
    """Every pair is served or refused with a reason of its own; a method without inversions takes them all."""
    pairs = [(m, i) for m in METHODS for i in INVERSIONS]
    served = [(m, i) for m, i in pairs if i in METHODS[m].inversions]
    without = [(m, i) for m, i in pairs if (m, i) not in served and "not among those" in METHODS[m].why_not(i)]
    assert without == []
    both = [(m, i) for m, i in served if i in METHODS[m].refuses]
    assert both == []


@pytest.mark.parametrize(("method", "inversion"), SERVED)
def test_a_served_pair_runs_and_brings_the_source_back(
    toy_model: Any, inversions: dict[str, Inversion], method: str, inversion: str
) -> None:
    result = edited(toy_model, method, inverted=inversions[inversion])
    assert np.isfinite(np.asarray(result.image)).all()
    if inversion in EXACT and method != "plug-and-play":  # which reads latents and replays nothing
        clean = to_images(toy_model.decode_latents(inversions[inversion].clean.float()))[0]
        assert np.abs(np.asarray(result.reconstruction, float) - np.asarray(clean, float)).max() <= 1.0


@pytest.mark.parametrize(("method", "inversion"), ON_A_FLOW)
def test_a_pair_for_flows_runs_on_one_and_is_refused_elsewhere(
    flow: Any, toy_model: Any, method: str, inversion: str
) -> None:
    mask = np.full((32, 32), 255, np.uint8) if method == "kv-edit" else None
    result = edited(flow, method, inversion=inversion, mask=mask)
    assert np.isfinite(np.asarray(result.image)).all()
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=r"needs .* as Stable Diffusion 3 and FLUX have, and toy has none"):
        edited(toy_model, method, inversion=inversion, mask=mask)
    assert toy_model.evaluations == before


@pytest.mark.parametrize("method", ["pix2pix-zero", "masactrl", "plug-and-play"])
def test_a_method_that_a_flow_does_not_serve_is_refused_before_any_work(flow: Any, method: str) -> None:
    before = flow.evaluations
    with pytest.raises(UsageError, match=rf"method {method} needs .* as Stable Diffusion 1.x to XL have"):
        edited(flow, method)
    with pytest.raises(UsageError, match=r"it serves: .*flowedit"):
        edited(flow, method)
    assert flow.evaluations == before


@pytest.mark.parametrize(("method", "inversion"), REFUSED)
def test_a_refused_pair_says_why_and_what_to_take(
    toy_model: Any, inversions: dict[str, Inversion], method: str, inversion: str
) -> None:
    before = toy_model.evaluations
    for given in ({"inversion": inversion}, {"inverted": inversions[inversion]}):
        with pytest.raises(UsageError) as caught:
            edited(toy_model, method, **given)
        assert METHODS[method].why_not(inversion) in str(caught.value)
        assert METHODS[method].inversions[0] in str(caught.value)
    assert toy_model.evaluations == before


@pytest.mark.parametrize("method", FROM_THE_PICTURE)
def test_a_method_from_the_picture_takes_the_latents_of_any_inversion(
    toy_model: Any, inversions: dict[str, Inversion], method: str
) -> None:
    alone = np.asarray(edited(toy_model, method).image)
    named = edited(toy_model, method, inversion="direct")
    assert np.array_equal(np.asarray(named.image), alone)
    assert any("'direct' is not run" in note for note in named.notes)
    for name, inverted in inversions.items():
        result = edited(toy_model, method, inverted=inverted)
        assert np.array_equal(np.asarray(result.image), alone), name
        assert any("only the latents" in note for note in result.notes)
    again = edited(toy_model, method, inverted=named.inversion)  # a result's own start serves once more
    assert not any("only the latents" in note for note in again.notes)


def test_pairs_that_add_nothing_say_so_and_give_the_same(toy_model: Any, inversions: dict[str, Inversion]) -> None:
    for method in ("diffedit", "plug-and-play"):
        plain = edited(toy_model, method, inverted=inversions["ddim"])
        assert plain.notes == () or not any("not used" in note for note in plain.notes)
        for name in ("null-text", "negative-prompt"):
            result = edited(toy_model, method, inverted=inversions[name], source_guidance_scale=1.0)
            assert np.array_equal(np.asarray(result.image), np.asarray(plain.image))
            assert any(f"embeddings of a {name} inversion are not used" in note for note in result.notes)


def test_masactrl_from_bdia_and_noise_maps_with_equal_prompts_changes_nothing(
    toy_model: Any, inversions: dict[str, Inversion]
) -> None:
    for name in ("bdia", "dpm-encoder", "regularised-ddim"):
        result = edited(
            toy_model, "masactrl", inverted=inversions[name], target_prompt=SOURCE,
            guidance_scale=inversions[name].guidance_scale, start_step=0,
        )  # fmt: skip
        if name != "regularised-ddim":  # whose source is pinned, where the target drifts as its replay does
            difference = np.abs(np.asarray(result.image, float) - np.asarray(result.reconstruction, float))
            assert difference.max() <= 1.0, name
        assert result.reconstruction_psnr == pytest.approx(result.ceiling_psnr, abs=1.0), name


def test_what_leads_back_to_nothing_is_refused_where_an_inversion_is_needed(toy_model: Any) -> None:
    start = edited(toy_model, "sdedit").inversion
    with pytest.raises(UsageError, match="holds only the image's latents"):
        edited(toy_model, "prompt-to-prompt", inverted=start)
    bare = Inversion("direct", torch.randn(1, 4, 16, 16), tuple(toy_model.schedule.timesteps(STEPS)))
    with pytest.raises(InversionError, match="holds no image for sdedit"):
        edited(toy_model, "sdedit", inverted=bare)
    with pytest.raises(UsageError, match="unknown inversion 'dirct'"):
        edited(toy_model, "sdedit", inversion="dirct")
