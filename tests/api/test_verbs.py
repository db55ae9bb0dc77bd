"""The public drivers on a toy model: results, recipes, costs, masks, and mistakes named before any work."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.edits.method import METHODS
from sfumato.emoji.defaults import METHOD_GUIDANCE, METHOD_OPTIONS
from sfumato.errors import ImageError, InversionError, UsageError
from sfumato.images import read_recipe
from sfumato.morphs.method import MORPHS
from sfumato.watch import Progress, Watch

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC)


def edit(model: Any, picture: Any, **options: Any) -> sfumato.EditResult:
    given = {"source_prompt": SOURCE, "target_prompt": TARGET, "num_inference_steps": 4, "guidance_scale": 3.0}
    return sfumato.edit(model, picture, **(given | options))


pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights


def test_edit_of_a_picture(toy_model: Any, picture: Image.Image, tmp_path: Path) -> None:
    reports: list[Progress] = []
    result = edit(toy_model, picture, watch=Watch(progress=reports.append))
    assert result.image.size == result.reconstruction.size == picture.size
    assert result.source.tobytes() == picture.tobytes()
    assert result.cost.evaluations == 4 + 4 * 3  # inversion, then the target under guidance beside the source
    assert result.cost.seconds > 0
    assert result.cost.peak_memory > 10**7
    assert {report.stage for report in reports} == {"inverting", "editing"}
    assert result.recipe["source_guidance_scale"] == 1.0
    assert result.recipe["inversion"] == "direct"
    heat = result.attention_map("dog")
    assert heat.shape == (12, 16)
    assert float(heat.max()) == 1.0
    with pytest.raises(UsageError, match="'cat' is not in"):
        result.attention_map("cat")
    assert result.attention_map("cat", target=None).shape == (12, 16)

    path = result.save(tmp_path / "dog.png")
    recipe = read_recipe(path)
    assert recipe["target_prompts"] == [TARGET]
    assert recipe["revision"] == toy_model.revision
    assert recipe["image"]["sha256"] == result.recipe["image"]["sha256"]


@pytest.mark.filterwarnings("ignore:the prompt has 80 tokens")
def test_the_map_of_a_word_in_a_further_chunk_is_its_own(toy_model: Any, picture: Image.Image) -> None:
    long = " ".join(["a"] * 78)
    result = edit(
        toy_model, picture, source_prompt=f"{long} cat hat", target_prompt=f"{long} dog hat", num_inference_steps=1
    )
    assert result.maps is not None
    own = result.maps[1, ..., toy_model.text.length + toy_model.text.start + 78 - toy_model.text.chunk]
    assert torch.equal(result.attention_map("dog"), own / own.max())


@pytest.mark.parametrize(("inversion", "rows"), [("direct", [2]), ("null-text", [2, 1])])
def test_a_pinned_source_is_decoded_once(
    toy_model: Any, picture: Image.Image, monkeypatch: pytest.MonkeyPatch, inversion: str, rows: list[int]
) -> None:
    decoded, decode = [], toy_model.decode_latents
    monkeypatch.setitem(vars(toy_model), "decode_latents", lambda latents: decoded.append(latents) or decode(latents))
    result = edit(toy_model, picture, inversion=inversion)
    assert [len(latents) for latents in decoded] == rows
    best = sfumato.images.to_images(decode(toy_model.encode_image(sfumato.images.to_pixels(picture))))[0]
    error = np.asarray(best, dtype=float) - np.asarray(picture, dtype=float)
    assert result.ceiling_psnr == pytest.approx(10 * math.log10(255**2 / np.square(error).mean()), abs=0.02)


def test_the_seed_is_all_the_randomness_of_a_drawn_source(toy_model: Any) -> None:
    first, again, other = (edit(toy_model, None, seed=seed, size=(128, 64)) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()
    assert first.image.size == (128, 64)
    assert first.reconstruction_psnr == math.inf
    assert first.recipe["source_guidance_scale"] == 3.0
    drawn = sfumato.generate(toy_model, SOURCE, num_inference_steps=4, guidance_scale=3.0, seed=5, size=(128, 64))
    difference = np.abs(np.asarray(first.source, dtype=int) - np.asarray(drawn.image, dtype=int))
    assert difference.max() <= 1  # rounding of a batch of two


def test_several_targets(toy_model: Any, picture: Image.Image, tmp_path: Path) -> None:
    result = edit(toy_model, picture, target_prompt=[TARGET, "a photo of a hat"])
    assert len(result.images) == 2
    result.save(tmp_path / "out.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-2.png", "out.png"]


def test_an_inversion_is_made_once_and_used_again(toy_model: Any, picture: Image.Image, tmp_path: Path) -> None:
    inverted = sfumato.invert(toy_model, picture, prompt=SOURCE, num_inference_steps=4)
    assert inverted.cost.evaluations == 4 + 4
    loaded = sfumato.Inversion.load(inverted.inversion.save(tmp_path / "cat.safetensors"))
    again = edit(toy_model, picture, inverted=loaded)
    assert again.cost.evaluations == 4 * 3
    assert again.image.tobytes() == edit(toy_model, picture).image.tobytes()
    assert loaded.key == edit(toy_model, picture).inversion.key
    with pytest.raises(InversionError, match="num_inference_steps=4"):
        edit(toy_model, picture, inverted=loaded, num_inference_steps=5)
    with pytest.raises(InversionError, match="another image"):
        edit(toy_model, picture.rotate(180), inverted=loaded)


@pytest.mark.parametrize("drawn", [True, False])
def test_what_an_edit_started_from_gives_the_same_edit_again(toy_model: Any, picture: Any, drawn: bool) -> None:
    """Its draws come after the first noise, which they repeated: the same noise twice in one run."""
    small: dict[str, Any] = {"size": (32, 32)} if drawn else {}
    first = edit(toy_model, None if drawn else picture.resize((32, 32)), method="virtual-inversion", **small)
    assert first.inversion.method == ("drawn" if drawn else "picture")
    again = edit(toy_model, None, inverted=first.inversion, method="virtual-inversion")
    assert again.inversion is first.inversion
    assert again.image.tobytes() == first.image.tobytes()


def test_padding_is_cut_off_again(toy_model: Any, picture: Image.Image) -> None:
    odd = picture.crop((0, 0, 101, 67))
    with pytest.raises(ImageError, match="104x64"):
        edit(toy_model, odd)
    for fit, size in {"pad": (101, 67), "crop": (96, 64), "resize": (104, 64)}.items():
        result = edit(toy_model, odd, fit=fit)
        assert result.image.size == size
        assert any(fit in note for note in result.notes)


def test_a_sampler_by_name_draws_another_image_and_stands_in_the_recipe(toy_model: Any) -> None:
    drawn = {
        name: sfumato.generate(toy_model, SOURCE, num_inference_steps=3, sampler=name, seed=1)
        for name in (None, "ddim", "lcm", "dpm-solver++")
    }
    assert [result.recipe["sampler"] for result in drawn.values()] == ["ddim", "ddim", "lcm", "dpm-solver++"]
    assert drawn[None].image.tobytes() == drawn["ddim"].image.tobytes()
    assert len({result.image.tobytes() for result in drawn.values()}) == 3
    with pytest.raises(UsageError, match="sampler must be one of ddim"):
        sfumato.generate(toy_model, SOURCE, sampler="dpm")
    with pytest.raises(UsageError, match=r"eta=0\.5 is for the sampler ddim, not lcm"):
        sfumato.generate(toy_model, SOURCE, sampler="lcm", eta=0.5)


def test_generate(toy_model: Any, tmp_path: Path) -> None:
    result = sfumato.generate(toy_model, SOURCE, num_images=2, num_inference_steps=3, seed=1)
    assert result.cost.evaluations == 2 * 2 * 3
    assert len(result.images) == 2
    assert result.images[0].tobytes() != result.images[1].tobytes()
    assert read_recipe(result.save(tmp_path / "drawn.png"))["prompt"] == SOURCE
    stochastic = [sfumato.generate(toy_model, SOURCE, num_inference_steps=3, eta=1.0, seed=1) for _ in range(2)]
    assert stochastic[0].image.tobytes() == stochastic[1].image.tobytes() != result.image.tobytes()


def test_a_low_psnr_is_a_warning(toy_model: Any, picture: Image.Image) -> None:
    with pytest.warns(UserWarning, match="the reconstruction differs from the image"):
        result = edit(toy_model, picture)
    assert any("the reconstruction differs" in note for note in result.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_prompt": "  "}, "source_prompt is empty"),
        ({"target_prompt": ""}, "target_prompt is empty"),
        ({"target_prompt": []}, "target_prompt is empty"),
        ({"method": "prompt-2-prompt"}, "did you mean 'prompt-to-prompt'"),
        ({"inversion": "dddim"}, "did you mean 'ddim'"),
        ({"guidance_scale": 0.5}, r"guidance_scale must be in \[1, 100\]"),
        ({"guidance_scale": math.nan}, "guidance_scale must be"),
        ({"num_inference_steps": 5000}, "num_inference_steps must be"),
        ({"num_inference_steps": 0}, "num_inference_steps must be"),
        ({"self_replace_step": 0.5}, "did you mean 'self_replace_steps'"),
        ({"self_replace_steps": 1.5}, r"must be in \[0, 1\], got 1.5"),
        ({"inversion_options": {"condition_on": "next"}}, "did you mean 'conditioned_on'"),
        ({"fit": "stretch"}, "fit must be one of"),
        ({"size": (100, 100)}, "the nearest is 104x104"),
        ({"mask_pixels": True}, "need a mask"),
        ({"mask_words": "dog"}, "'dog' is not in"),
        ({"mask_words": "cat", "mask_threshold": 1.0}, "mask_threshold must be in"),
    ],
)
def test_mistakes_are_named(toy_model: Any, picture: Image.Image, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edit(toy_model, picture, **options)


def test_mistakes_are_found_before_the_network_runs(toy_model: Any, picture: Image.Image) -> None:
    before = toy_model.evaluations
    for options in ({"method": "none"}, {"self_replace_steps": 2}, {"mask": picture.crop((0, 0, 8, 8))}):
        with pytest.raises((UsageError, ImageError)):
            edit(toy_model, picture, **options)
    assert toy_model.evaluations == before


def left_half(picture: Image.Image) -> Image.Image:
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, picture.width // 2, picture.height))
    return mask


@pytest.mark.parametrize("feather", [0.0, 6.0])
def test_masked_pixels_are_the_sources_own(toy_model: Any, picture: Image.Image, feather: float) -> None:
    result = edit(toy_model, picture, mask=left_half(picture), mask_pixels=True, mask_feather=feather)
    image, source = np.asarray(result.image), np.asarray(picture)
    assert np.array_equal(image[:, 64:], source[:, 64:])
    assert not np.array_equal(image[:, :40], source[:, :40])
    assert result.recipe["mask"]["pixels"] is True


def test_a_prompt_shorter_than_its_negative_prompt_is_padded_alike_in_inversion_and_edit(
    toy_xl_model: Any, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDXL's empty prompt is zeros, which is not what fills a prompt up that is read beside a longer one."""
    seen, predict = list[torch.Tensor](), toy_xl_model.predict

    def noted(latents: torch.Tensor, t: Any, condition: Any) -> Any:
        seen.append(condition.text)
        return predict(latents, t, condition)

    monkeypatch.setattr(toy_xl_model, "zeroes_empty_negative", True)
    monkeypatch.setattr(toy_xl_model, "predict", noted)
    edit(toy_xl_model, picture, inversion="ddim", negative_prompt=" ".join(["a"] * 80), num_inference_steps=1)
    inverting, editing = seen
    assert editing.shape[1] == 2 * toy_xl_model.text.length
    torch.testing.assert_close(inverting[0], editing[1])  # the target's negative prompt, source, target


def test_masks_from_words(toy_model: Any, picture: Image.Image) -> None:
    result = edit(toy_model, picture, mask_words="cat", mask_threshold=0.6, mask_pixels=True)
    same = (np.asarray(result.image) == np.asarray(picture)).all(axis=-1).mean()
    assert 0.05 < same < 1.0
    assert result.recipe["mask"]["words"] == ["cat"]


def test_bad_masks(toy_model: Any, picture: Image.Image) -> None:
    with pytest.raises(ImageError, match="64x64 pixels, the image 128x96"):
        edit(toy_model, picture, mask=Image.new("L", (64, 64), 255))
    with pytest.raises(ImageError, match="black or transparent everywhere"):
        edit(toy_model, picture, mask=Image.new("L", picture.size, 0))
    with pytest.raises(ImageError, match=r"mask values must be in \[0, 1\]"):
        edit(toy_model, picture, mask=torch.full((96, 128), 2.0))
    with pytest.raises(UsageError, match="not both"):
        edit(toy_model, picture, mask=left_half(picture), mask_words="cat")
    with pytest.raises(UsageError, match="a mask needs an image"):
        edit(toy_model, None, mask=left_half(picture))


def test_what_suits_the_embedded_model_is_allowed() -> None:
    for name, options in METHOD_OPTIONS.items():
        entry = METHODS[name] if name in METHODS else MORPHS[name]
        assert entry.check_options(options) == dict(options)
    assert all((name in METHODS or name in MORPHS) and scale >= 1 for name, scale in METHOD_GUIDANCE.items())


def test_what_suits_the_model_is_taken_where_nothing_is_said(
    toy_model: Any, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_model, "method_options", {"sdedit": {"strength": 0.5}})
    monkeypatch.setattr(toy_model, "method_guidance", {"sdedit": 2.0})
    given: dict[str, Any] = {"source_prompt": "a cat", "target_prompt": "a dog", "method": "sdedit"}
    suited = sfumato.edit(toy_model, picture, num_inference_steps=4, **given)
    assert (suited.recipe["options"], suited.recipe["guidance_scale"]) == ({"strength": 0.5}, 2.0)
    asked = sfumato.edit(toy_model, picture, num_inference_steps=4, guidance_scale=3, strength=1.0, **given)
    assert (asked.recipe["options"], asked.recipe["guidance_scale"]) == ({"strength": 1.0}, 3.0)
    assert asked.cost.evaluations > suited.cost.evaluations


def test_notebooks_show_results(toy_model: Any) -> None:
    def shown(result: Any) -> tuple[int, int]:
        return Image.open(io.BytesIO(result._repr_png_())).size

    drawn = sfumato.generate(toy_model, "a cat", size=(64, 64), num_inference_steps=1, num_images=2)
    assert shown(drawn) == (128, 64)
    inverted = sfumato.invert(toy_model, drawn.image, num_inference_steps=1)
    assert shown(inverted) == (128, 64)
    morphed = sfumato.morph(toy_model, *drawn.images, method="crossfade", num_frames=3)
    assert shown(morphed) == morphed.film_strip().size


def test_the_home_folder_is_known_by_its_sign(toy_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    drawn = sfumato.generate(toy_model, "a cat", size=(64, 64), num_inference_steps=1)
    assert drawn.save("~/cat.png") == tmp_path / "cat.png"
    inverted = sfumato.invert(toy_model, "~/cat.png", num_inference_steps=1)
    inverted.inversion.save("~/cat.safetensors")
    assert sfumato.Inversion.load("~/cat.safetensors").prompt == ""
    morphed = sfumato.morph(toy_model, "~/cat.png", inverted.reconstruction, method="crossfade", num_frames=3)
    assert morphed.save("~/cat.webp") == tmp_path / "cat.webp"
    with pytest.raises(ImageError, match="~nobody-of-this-name/cat"):
        sfumato.invert(toy_model, "~nobody-of-this-name/cat.png")
