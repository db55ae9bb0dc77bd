"""Energies by name: what options take, what they refuse before any work, and that each does what its name says."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.edits.cycle_diffusion import cycle_diffusion
from sfumato.edits.egsde import egsde
from sfumato.edits.method import METHODS
from sfumato.emoji import EXAMPLES
from sfumato.emoji.judge import EmojiClassifier, EmojiClip, labels
from sfumato.errors import ModelError, UsageError
from sfumato.guidance.energies import FeatureSimilarity, LowPassDistance, WeightedSum, evaluated
from sfumato.guidance.energies_by_name import ENERGIES, Rows, check_energy, energies_of, experts_of, names
from sfumato.images import load_image, to_pixels
from sfumato.inversions.noise_maps import dpm_encoder
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.judges.encoders import dual_encoder
from tests.edits.tasks import edit_by

CAT, DOG = "a photo of a cat", "a photo of a dog"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(model: Any, count: int = 2, **options: Any) -> Rows:
    given: dict[str, Any] = {"encoder": "emoji-clip", "generator": torch.Generator().manual_seed(0)} | options
    return Rows(model, normal(count, 4, 16, 16), CAT, [DOG, "a red hat"][:count], **given)


def of_names(use: Any) -> list[str]:
    needs = {"classifier": "classifier:fox"}
    return [needs.get(name, name) for name, entry in ENERGIES.items() if use in entry.uses]


@pytest.mark.parametrize("name", of_names("guide"))
def test_energies_judge_rows_by_themselves_and_have_gradients(name: str, toy_model: Any) -> None:
    latents = normal(2, 4, 16, 16, seed=1).requires_grad_(True)
    ((weight, energy),) = energies_of(name, rows(toy_model))
    assert weight > 0
    values = evaluated(energy, latents)
    (gradient,) = torch.autograd.grad(values[0], latents)
    assert float(gradient[0].norm()) > 0
    assert float(gradient[1].norm()) == 0
    ((_, again),) = energies_of(name, rows(toy_model))
    torch.testing.assert_close(evaluated(again, latents), values)


@pytest.mark.parametrize("name", of_names("expert"))
def test_experts_judge_rows_by_themselves_and_have_gradients(name: str, toy_model: Any) -> None:
    latents = normal(2, 4, 16, 16, seed=1).requires_grad_(True)
    ((weight, expert),) = experts_of(name, rows(toy_model))
    assert weight > 0
    reference, step = normal(2, 4, 16, 16, seed=2), toy_model.schedule.steps(4)[2]
    values = expert(latents, reference, step)
    assert values.shape == (2,)
    (gradient,) = torch.autograd.grad(values[1], latents)
    assert float(gradient[1].norm()) > 0
    assert float(gradient[0].norm()) == 0


def test_tables_have_weights_and_names_their_own(toy_model: Any) -> None:
    given = rows(toy_model)
    found = energies_of({"stay-near": 2.0, "low-pass:2": 3.0}, given)
    assert [weight for weight, _ in found] == [2.0, 3.0]
    latents = normal(2, 4, 16, 16, seed=1)
    difference = latents - given.clean
    torch.testing.assert_close(found[0][1](latents), 0.5 * difference.square().sum((1, 2, 3)))
    assert bool((found[1][1](latents) < found[0][1](latents)).all())
    total = WeightedSum(tuple(found))(latents)
    torch.testing.assert_close(total, 2 * found[0][1](latents) + 3 * found[1][1](latents))
    assert experts_of("low-pass:6", given) == [(1.0, LowPassDistance(6))]


def test_objects_stay_what_they_are(toy_model: Any) -> None:
    given = rows(toy_model)
    ((weight, energy),) = energies_of(lambda pixels: pixels.mean(dim=(1, 2, 3)), given)
    latents = normal(2, 4, 16, 16, seed=1)
    assert weight == 1.0
    with torch.no_grad():
        torch.testing.assert_close(energy(latents), toy_model.decode_latents(latents).mean(dim=(1, 2, 3)))
    expert = FeatureSimilarity(lambda latents, step: latents)
    assert experts_of([(2.0, expert)], given) == [(2.0, expert)]


def test_several_energies_of_pictures_decode_once(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, decode, calls = rows(toy_model), toy_model.decode_latents, []

    def counted(latents: Tensor) -> Tensor:
        calls.append(len(latents))
        pixels: Tensor = decode(latents)
        return pixels

    monkeypatch.setitem(vars(toy_model), "decode_latents", counted)
    both = WeightedSum(tuple(energies_of({"text-agreement": 1.0, "classifier:fox": 1.0}, given)))
    latents = normal(2, 4, 16, 16, seed=1)
    with torch.no_grad():
        first, second = both(latents), both(latents + 1)
    assert len(calls) == 2
    assert not torch.allclose(first, second)


def test_prompt_gain_of_rows_with_their_own_prompts(toy_model: Any) -> None:
    latents = normal(2, 4, 16, 16, seed=1)
    with torch.no_grad():
        both = energies_of("prompt-gain", rows(toy_model), "rank")[0][1](latents)
        one = energies_of("prompt-gain", rows(toy_model, 1), "rank")[0][1](latents[[0]])
    torch.testing.assert_close(both[:1], one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("use", "value", "message"),
    [
        ("guide", "text-agrement", "unknown energy 'text-agrement': did you mean 'text-agreement'?"),
        ("guide", {"stay-nearr": 2.0}, "did you mean 'stay-near'?"),
        ("guide", "directional-agreement", "directional-agreement cannot be used here; use one of: text-agreement"),
        ("rank", "domain", "domain cannot be used here"),
        ("guide", "stay-near:3", "stay-near takes nothing after its name, got '3'"),
        ("expert", "low-pass:many", "low-pass takes a number of cells, at least 1, such as low-pass:8; got 'many'"),
        ("guide", "low-pass:0", "got '0'"),
        ("guide", "classifier", "say what the image should show, such as classifier:fox"),
        ("guide", "classifier:dgo", "did you mean 'dog'?"),
        ("guide", {}, "the table of energies is empty"),
        ("guide", lambda: 0.0, "must take images, and nothing else"),
        ("guide", LowPassDistance(), "energy LowPassDistance must take images"),
        ("expert", [(1.0, lambda pixels: pixels)], "must take latents, reference, step"),
        ("guide", 3.0, "cannot be called"),
    ],
)
def test_mistakes_are_named(use: Any, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        check_energy(use)(value)


def test_options_refuse_them_before_any_work(toy_model: Any) -> None:
    for name, option in (("cycle-diffusion", "energy"), ("langevin", "energy"), ("egsde", "experts")):
        with pytest.raises(UsageError, match="did you mean 'low-pass'"):
            METHODS[name].check_options({option: "low-pas"})
        with pytest.raises(UsageError, match="unknown energy"):
            METHODS[name].parameters[option].parse('{"nothing": 1}')
        assert METHODS[name].parameters[option].parse('{"stay-near": 2}') == {"stay-near": 2}
        assert "text-agreement" in METHODS[name].parameters[option].help
    with pytest.raises(UsageError, match="energy must be text or table"):
        METHODS["langevin"].check_options({"energy": 3.0})
    with pytest.raises(UsageError, match="encoder=FOLDER, a CLIP model"):
        energies_of("text-agreement", rows(toy_model, encoder=None))
    assert "classifier (" in names("guide")


def test_a_search_ranks_by_a_named_energy(toy_model: Any) -> None:
    noise = normal(2, 1, 4, 16, 16, seed=2)
    inverted = dpm_encoder(
        InversionTask(
            toy_model, 0.5 * normal(1, 4, 16, 16, seed=1), toy_model.encode_prompt(CAT), num_inference_steps=2
        ),
        noise=noise,
    )
    options: dict[str, Any] = {"source_prompt": CAT, "target_prompts": [DOG]}
    found = edit_by(cycle_diffusion, toy_model, inverted, try_strengths=[0.5, 1.0], energy="stay-near", **options)
    expected = [-0.5 * float((c.latents - inverted.clean).square().sum()) for c in found.candidates]
    assert [c.agreement for c in found.candidates] == pytest.approx(expected, rel=1e-4)
    assert torch.equal(found.latents[1], found.candidates[0].latents)
    judged = edit_by(
        cycle_diffusion, toy_model, inverted, try_strengths=[0.5, 1.0], energy="directional-agreement",
        encoder="emoji-clip", **options,
    )  # fmt: skip
    assert all(-2.0 <= candidate.agreement <= 0.0 for candidate in judged.candidates)
    with pytest.raises(UsageError, match="also give trials, try_strengths or try_guidance_scales"):
        edit_by(cycle_diffusion, toy_model, inverted, energy="stay-near", **options)


def test_a_named_expert_leads_egsde(toy_model: Any) -> None:
    timesteps = tuple(toy_model.schedule.timesteps(4))
    source = Inversion("picture", normal(1, 4, 16, 16), timesteps, trajectory=normal(1, 1, 4, 16, 16, seed=1) * 0.5)

    def run(**options: Any) -> Tensor:
        before = toy_model.evaluations
        generator = torch.Generator().manual_seed(0)
        edited = edit_by(
            egsde, toy_model, source, source_prompt=CAT, target_prompts=[DOG, CAT], generator=generator, strength=0.5,
            guidance_scale=1.0, faithfulness=0.0, **options,
        )  # fmt: skip
        spent.append(toy_model.evaluations - before)
        edits: Tensor = edited.latents[1:]
        return edits

    spent: list[int] = []
    plain, led = run(), run(experts={"stay-near": 0.1})
    assert spent == [2 * 2, 2 * 2 * 2]  # targets, steps, the estimate
    distance = [(latents - source.clean).flatten(2).norm(dim=2) for latents in (plain, led)]
    assert bool((distance[1] < distance[0]).all())


def test_the_embedded_judges_know_the_examples() -> None:
    pixels = torch.cat([to_pixels(load_image(EXAMPLES / f"{name}.png").image) for name in ("cat", "dog")])
    clip = EmojiClip()
    fit = clip.encode_image(pixels) @ clip.encode_text(["a cat", "a dog"]).T
    assert fit.argmax(dim=1).tolist() == [0, 1]
    for row, label in enumerate(("cat", "dog")):
        classifier = EmojiClassifier(label)
        assert int(classifier(pixels)[row].argmax()) == classifier.index
    assert EmojiClassifier("noto").index == int(EmojiClassifier("noto")(pixels)[1].argmax())
    assert {"fox", "flat"} <= set(labels())


def test_a_clip_folder_judges_too(toy_model: Any, tmp_path: Any) -> None:
    from transformers import CLIPConfig, CLIPModel

    from sfumato.judges.clip_guide import ClipGuide
    from tests.toy import toy_tokenizer

    tokenizer = toy_tokenizer()
    text = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 0}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | text, vision_config=small | {"image_size": 32, "patch_size": 16}, projection_dim=8
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    guide = dual_encoder(toy_model, str(tmp_path))
    assert isinstance(guide, ClipGuide)
    pixels = torch.nn.functional.interpolate(normal(2, 3, 6, 9).tanh(), size=(64, 96), mode="bicubic").clamp(-1, 1)
    measured = guide.image_features(pixels)
    cosine = torch.nn.functional.cosine_similarity(guide.encode_image(pixels), measured)
    assert float(cosine.min()) > 0.999  # torch's filter and no rounding, against Pillow's
    ((_, energy),) = energies_of("text-agreement", rows(toy_model, encoder=str(tmp_path)))
    latents = normal(2, 4, 16, 16).requires_grad_(True)
    assert float(torch.autograd.grad(evaluated(energy, latents).sum(), latents)[0].norm()) > 0
    with pytest.raises(ModelError, match="cannot load"):
        dual_encoder(toy_model, str(tmp_path / "nothing"))
