"""SD3 and FLUX as the one protocol shows them: prompts, guidance, sizes, attention, folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.attention.word_weights import word_weights
from sfumato.conditions.mixing import paired_tokens
from sfumato.errors import ModelError, UsageError
from sfumato.models.base import GUIDANCE, POOLED, Condition
from sfumato.models.flow_transformer import FlowTransformer
from sfumato.models.flux import Flux
from sfumato.models.folder import check_folder
from sfumato.models.loading import load_model, suited_dtype
from sfumato.models.sd3 import StableDiffusion3
from tests.toy_flow import toy_flux_pipeline, toy_sd3_pipeline

PROMPTS = ["a photo of a cat, smiling", "a dog"]
LONG = ", ".join(["a red house on a blue hat"] * 40)  # 280 words


def predicted(model: Any, condition: Condition | None = None) -> Tensor:
    latents = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(latents, 600.0, condition or model.encode_prompt(PROMPTS))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def sd3() -> Any:
    return load_model(toy_sd3_pipeline())


@pytest.fixture(scope="module")
def flux() -> Any:
    return load_model(toy_flux_pipeline())


@pytest.mark.parametrize("t5", [True, False])
def test_sd3_reads_prompts_as_its_pipeline_does(t5: bool) -> None:
    pipeline = toy_sd3_pipeline(t5=t5)
    with torch.no_grad():
        text, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    condition = load_model(pipeline).encode_prompt(PROMPTS)
    assert torch.equal(condition.text, text)
    assert torch.equal(condition.extras[POOLED], pooled)


@pytest.mark.parametrize("schnell", [True, False])
def test_flux_reads_prompts_as_its_pipeline_does(schnell: bool) -> None:
    pipeline, length = toy_flux_pipeline(schnell=schnell), 256 if schnell else 512
    with torch.no_grad():
        text, pooled, _ = pipeline.encode_prompt(PROMPTS, None, max_sequence_length=length)
    condition = load_model(pipeline).encode_prompt(PROMPTS)
    assert torch.equal(condition.text, text)
    assert torch.equal(condition.extras[POOLED], pooled)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_long_prompt_takes_further_chunks_and_a_short_one_beside_it_is_padded(family: str, request: Any) -> None:
    model = request.getfixturevalue(family)
    both, empty = model.encode_prompt([LONG, "a dog"]), model.encode_prompt("")
    assert both.tokens == 2 * empty.tokens or (family == "flux" and both.tokens == empty.tokens)
    assert not torch.equal(both.text[0], model.encode_prompt([LONG + " cat", "a dog"]).text[0])  # nothing is cut off
    assert predicted(model, both).isfinite().all()
    short, end = model.encode_prompt("a dog"), LONG + LONG  # more than one chunk of both
    beside = model.encode_prompt([end, "a dog"])[[1]]  # as if it was read by itself
    torch.testing.assert_close(beside.text, short.padded(beside.tokens, empty).text)


def test_weights_in_prompts_act_on_the_tokens_of_t5(flux: Any) -> None:
    plain, strong = (flux.encode_prompt(f"a {cat} on the house").text for cat in ("cat", "(cat:1.5)"))
    changed = (strong - plain).abs().amax(dim=-1)[0] > 1e-6
    ((_, (cat,)),) = [word for word in flux.text.words("a cat on the house") if word[0] == "cat"]
    assert changed.nonzero().flatten().tolist() == [cat]


def test_words_have_the_positions_of_all_encoders(sd3: Any, flux: Any) -> None:
    assert flux.text.words("a cat, zebra") == [("a", (0,)), ("cat", (1,)), (",", (2,)), ("zebra", (3, 4, 5, 6, 7, 8))]
    words = dict(sd3.text.words("a cat on the house"))
    assert words["cat"] == (2, 77 + 1)
    assert sd3.text.length == 77 + 256


def test_words_of_further_chunks_stand_where_their_embeddings_do(sd3: Any) -> None:
    """CLIP's for as many chunks as T5 has: of 260 tokens it needs four, and T5 two."""
    for count in (80, 150, 260):
        before = " ".join(["cat"] * count)
        plain, strong = (sd3.encode_prompt(f"{before} {dog} hat").text for dog in ("dog", "(dog:1.5)"))
        changed = (strong - plain).abs().amax(dim=-1)[0] > 1e-6
        places = dict(sd3.text.words(f"{before} dog hat"))["dog"]
        assert changed.nonzero().flatten().tolist() == sorted(p for p in places if p < len(changed))


def test_tokens_of_two_prompts_are_paired_in_each_encoder(sd3: Any) -> None:
    places = paired_tokens(sd3.text, "a cat on the house", "a red cat on the house", sd3.text.length)
    for start in (1, 77):  # CLIP's "cat" is the second token of the source and the third of the target, and T5's
        assert places[start + 2] == start + 1
    assert all(place < 77 for place in places[:77])
    assert all(place >= 77 for place in places[77:])


def test_a_word_that_t5_leaves_out_has_no_position(flux: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokenizer makes a space of a zero-width one, which is a word by itself to everything else."""
    plain = flux.text.t5.ids
    monkeypatch.setattr(flux.text.t5, "ids", lambda prompt: plain(prompt.replace("\u200b", " ")))
    assert flux.text.words("a \u200b cat") == [("a", (0,)), ("\u200b", ()), ("cat", (1,))]
    parted = word_weights(flux.text, "a \u200b red cat", "a \u200b red (dog:1.5)")
    assert parted.factors.nonzero().shape[0] == flux.text.length
    assert (parted.factors != 1.0).nonzero().flatten().tolist() == [2]
    assert word_weights(flux.text, "a \u200b (red:2) cat", "a \u200b red dog").prompt == "a \u200b (red:2.000000) dog"


def test_guidance_is_an_input_of_flux_dev_alone(sd3: Any, flux: Any) -> None:
    schnell = load_model(toy_flux_pipeline(schnell=True))
    assert (flux.takes_guidance, sd3.takes_guidance, schnell.takes_guidance) == (True, False, False)
    assert (schnell.few_steps, schnell.num_inference_steps, schnell.guidance_scale) == (True, 4, 1.0)
    condition = flux.encode_prompt(PROMPTS)
    told = condition.with_extras({GUIDANCE: torch.tensor([1.0, 4.0])})
    plain, guided = predicted(flux, condition), predicted(flux, told)
    torch.testing.assert_close(plain[0], guided[0])  # without a scale it is told 1
    assert not torch.allclose(plain[1], guided[1])


def test_classifier_free_guidance_on_top_of_an_embedded_scale() -> None:
    model = load_model(toy_flux_pipeline())
    assert isinstance(model, Flux)
    told = predicted(model, model.encode_prompt(PROMPTS).with_extras({GUIDANCE: torch.full((2,), 2.5)}))
    model.embedded_guidance = 2.5
    assert not model.takes_guidance
    torch.testing.assert_close(predicted(model), told)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_sizes_that_do_not_fit_are_refused(family: str, request: Any) -> None:
    model = request.getfixturevalue(family)
    assert model.latent_shape((64, 96)) == (16, 8, 12)
    with pytest.raises(UsageError, match="multiples of 16, got 64x88"):
        model.latent_shape((64, 88))
    with pytest.raises(UsageError, match="multiples of 16 pixels"):
        model.predict(torch.zeros(1, 16, 4, 5), 500.0, model.encode_prompt(""))


def test_sd3_knows_as_many_positions_as_its_table(sd3: Any) -> None:
    sd3.latent_shape((256, 256))
    with pytest.raises(UsageError, match="positions up to 256x256 pixels, got 272x64"):
        sd3.latent_shape((272, 64))


@pytest.mark.parametrize("family", ["sd3", "sd35", "flux"])
def test_every_attention_layer_is_a_site_in_execution_order(family: str) -> None:
    pipeline = toy_flux_pipeline() if family == "flux" else toy_sd3_pipeline(newer=family == "sd35")
    model = load_model(pipeline)
    sites, plain = model.sites((4, 6)), predicted(model)
    assert [site.kind for site in sites] == {
        "sd3": ["joint"] * 2, "sd35": ["joint", "self", "joint"], "flux": ["joint"] * 3
    }[family]  # fmt: skip
    seen: list[tuple[str, int, int]] = []

    class Look:
        def wants(self, site: Any) -> bool:
            return True

        def attend(self, call: Any) -> Tensor:
            image = call.key[..., call.site.image_keys, :].shape[-2]
            text = 0 if call.site.text_keys is None else call.key[..., call.site.text_keys, :].shape[-2]
            seen.append((call.site.name, image, text))
            return torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value)

    with model.kernel_hook(Look(), sites):
        assert torch.equal(predicted(model), plain)
    assert torch.equal(predicted(model), plain)
    tokens = model.encode_prompt("").tokens
    assert seen == [(site.name, 6, 0 if site.kind == "self" else tokens) for site in sites]


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_folder_loads_to_the_same_model(family: str, request: Any, tmp_path: Path) -> None:
    pipeline = toy_sd3_pipeline() if family == "sd3" else toy_flux_pipeline()
    pipeline.save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert torch.equal(predicted(model), predicted(request.getfixturevalue(family)))
    assert model.text_fingerprint == request.getfixturevalue(family).text_fingerprint != ""


def test_a_model_without_text_encoders_knows_the_prompts_given_to_it(tmp_path: Path, flux: Any) -> None:
    toy_flux_pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    text_side = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **{part: [None, None] for part in text_side}}))
    model = load_model(tmp_path, device="cpu")
    assert isinstance(model, FlowTransformer)
    with pytest.raises(ModelError, match=r"without its text encoders, so it cannot read 'a dog'.*give_prompt"):
        model.encode_prompt("a dog")
    for prompt in PROMPTS:
        model.give_prompt(prompt, flux.encode_prompt(prompt))
    assert torch.equal(predicted(model), predicted(flux))
    with pytest.raises(UsageError, match="one row, got 2"):
        model.give_prompt("both", flux.encode_prompt(PROMPTS))


def test_given_prompts_are_padded_to_the_longest_and_lie_where_the_model_is(flux: Any) -> None:
    model = load_model(toy_flux_pipeline())
    assert isinstance(model, FlowTransformer)
    model.reader = None
    for prompt in ("", "a dog", LONG + LONG):
        model.give_prompt(prompt, flux.encode_prompt(prompt))
    both = model.encode_prompt(["a dog", LONG + LONG])
    torch.testing.assert_close(both.text, flux.encode_prompt(["a dog", LONG + LONG]).text)
    model.device = torch.device("meta")  # instead of a GPU
    model.give_prompt("a cat", flux.encode_prompt("a cat"))
    given = model.encode_prompt("a cat")
    assert {tensor.device.type for tensor in (given.text, *given.extras.values())} == {"meta"}


def test_half_precision_of_a_flow_model_is_bf16_by_default(tmp_path: Path, tiny_sd: Path) -> None:
    toy_flux_pipeline(schnell=True).save_pretrained(tmp_path)
    assert suited_dtype(tmp_path, torch.float16) == torch.bfloat16
    assert suited_dtype(tmp_path, torch.float32) == torch.float32
    assert suited_dtype(tiny_sd, torch.float16) == torch.float16


def test_a_folder_that_names_another_pipeline_of_the_family_loads(tmp_path: Path, flux: Any) -> None:
    toy_flux_pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxImg2ImgPipeline"}))
    check_folder(tmp_path)  # as the hub's files are checked
    assert torch.equal(predicted(load_model(tmp_path, device="cpu")), predicted(flux))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Flux2Pipeline", "batch norm"),
        ("QwenImagePipeline", "no pooled embedding"),
        ("ZImagePipeline", "the other way round"),
        ("FluxFillPipeline", "images beside the text"),
    ],
)
def test_other_flow_models_are_refused_by_name(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "_diffusers_version": "0.42.1"}))
    with pytest.raises(ModelError, match=f"{name}, which is not supported yet: .*{reason}"):
        load_model(tmp_path)


def test_a_flow_model_with_another_scheduler_is_refused(tmp_path: Path) -> None:
    toy_flux_pipeline().save_pretrained(tmp_path)
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    with pytest.raises(ModelError, match="DDIMScheduler is not for a flow model"):
        load_model(tmp_path)
    config.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True}))
    with pytest.raises(ModelError, match="use_karras_sigmas"):
        load_model(tmp_path)


def test_the_adapters_keep_the_defaults_of_their_families(sd3: Any, flux: Any) -> None:
    newer = load_model(toy_sd3_pipeline(newer=True))
    assert isinstance(sd3, StableDiffusion3)
    assert (sd3.guidance_scale, newer.guidance_scale, flux.guidance_scale) == (7.0, 4.5, 3.5)
    assert sd3.num_inference_steps == flux.num_inference_steps == 28
