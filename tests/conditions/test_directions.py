"""Edit directions: the mean difference itself, arithmetic, files, foreign encoders, and where sentences come from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.conditions.directions import KIND, Direction, direction_between, make_direction, mean_condition
from sfumato.conditions.sentences import changed_words, read_sentences, template_sentences
from sfumato.errors import DirectionError, UsageError
from sfumato.models.base import Condition
from sfumato.tensorfile import save_tensors

CATS = ["a cat", "a photo of a cat on the house", "the cat face"]
DOGS = ["a dog", "a photo of a dog"]


@pytest.fixture(params=["toy_model", "toy_xl_model"])
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def few(model: Any, source: str, target: str) -> Direction:
    """A direction made from a few sentences."""
    return make_direction(model, source, target, write=lambda word: [f"a {word}", f"a photo of a {word}"])


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_a_direction_is_the_difference_of_means(model: Any) -> None:
    cats = [model.encode_prompt(sentence) for sentence in CATS]
    dogs = [model.encode_prompt(sentence) for sentence in DOGS]
    found = direction_between(model, CATS, DOGS, source="cat", target="dog")
    expected = sum(d.text for d in dogs) / 2 - sum(c.text for c in cats) / 3
    assert far(found.embeds, expected) < 1e-5
    assert (found.name, found.sentences, found.source, found.target) == ("cat -> dog", (3, 2), "cat", "dog")
    assert found.shift.extras.keys() == cats[0].extras.keys()
    for name, shift in found.shift.extras.items():
        assert far(shift, sum(d.extras[name] for d in dogs) / 2 - sum(c.extras[name] for c in cats) / 3) < 1e-5


def test_applying_the_whole_difference_gives_the_other_prompt(model: Any) -> None:
    cat, dog = model.encode_prompt("a photo of a cat"), model.encode_prompt("a photo of a dog")
    way = direction_between(model, ["a photo of a cat"], ["a photo of a dog"])
    led = way.apply(cat)
    assert torch.allclose(led.text, dog.text, atol=1e-5)
    assert led.extras.keys() == dog.extras.keys()
    assert all(torch.allclose(led.extras[name], extra, atol=1e-5) for name, extra in dog.extras.items())
    half = way.apply(cat, 0.5).text
    assert torch.allclose(half, (cat.text + dog.text) / 2, atol=1e-5)


def test_only_the_first_chunk_of_a_long_prompt_is_led(toy_model: Any) -> None:
    long = toy_model.encode_prompt(" ".join(["cat"] * 90))
    led = few(toy_model, "cat", "dog").apply(long).text
    assert torch.equal(led[:, 77:], long.text[:, 77:])
    assert not torch.allclose(led[:, :77], long.text[:, :77])


def test_long_sentences_are_cut_with_a_warning(toy_model: Any) -> None:
    with pytest.warns(UserWarning, match="longer than 75 tokens"):
        found = mean_condition(toy_model, [" ".join(["cat"] * 90), "a cat"]).text
    assert found.shape == (1, 77, 32)


def test_many_sentences_in_batches(toy_model: Any) -> None:
    sentences = template_sentences("cat")
    assert len(sentences) == len(set(sentences)) == 84
    expected = torch.cat([toy_model.encode_prompt(s).text for s in sentences]).mean(dim=0, keepdim=True)
    assert far(mean_condition(toy_model, sentences).text, expected) < 1e-5


def test_arithmetic(model: Any) -> None:
    to_dog, to_hat = few(model, "cat", "dog"), few(model, "dog", "hat")
    chained = to_dog.then(to_hat)
    assert far(chained.embeds, few(model, "cat", "hat").embeds) < 1e-5
    assert (chained.source, chained.target, chained.name) == ("cat", "hat", "cat -> hat")
    assert torch.equal((to_dog + to_hat).embeds, to_dog.embeds + to_hat.embeds)
    assert torch.equal((to_dog - to_dog).embeds, torch.zeros_like(to_dog.embeds))
    assert torch.equal((0.5 * to_dog).embeds, 0.5 * to_dog.embeds)
    assert (0.5 * to_dog).name == "0.5 (cat -> dog)"
    back = -to_dog
    assert (back.source, back.target, back.name) == ("dog", "cat", "dog -> cat")
    assert torch.equal(back.embeds, -to_dog.embeds)
    assert (2 * to_dog).shift.equals(to_dog.shift.each(lambda tensor: 2 * tensor))
    with pytest.raises(DirectionError, match="does not start where"):
        to_hat.then(to_dog)
    with pytest.raises(DirectionError, match="different text encoders"):
        to_dog + replace(to_hat, fingerprint="other")


def test_round_trip_on_disk(model: Any, tmp_path: Path) -> None:
    before = few(model, "cat", "dög “face”")
    after = Direction.load(before.save(tmp_path / "cat2dog.safetensors"))
    assert after.shift.equals(before.shift)
    assert replace(after, shift=before.shift) == before
    assert [path.name for path in tmp_path.iterdir()] == ["cat2dog.safetensors"]


def test_damaged_and_foreign_files_are_refused(toy_model: Any, tmp_path: Path) -> None:
    path = few(toy_model, "cat", "dog").save(tmp_path / "way.safetensors")
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:40], b"", b"no tensors", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(DirectionError, match="damaged"):
            Direction.load(path)
    path.write_bytes(whole.replace(b"cat -> dog", b"cat -> fox"))
    with pytest.raises(DirectionError, match="damaged"):
        Direction.load(path)
    path.write_bytes(whole)
    save_file(load_file(path), tmp_path / "foreign.safetensors", metadata={"format": "other", "fields": json.dumps({})})
    with pytest.raises(DirectionError, match="no sfumato direction"):
        Direction.load(tmp_path / "foreign.safetensors")
    with pytest.raises(DirectionError, match="no direction at"):
        Direction.load(tmp_path / "missing.safetensors")
    with pytest.raises(DirectionError, match=r"must end in \.safetensors"):
        Direction.load(path).save(tmp_path / "way.pt")


def test_another_encoder_is_refused(toy_model: Any, toy_xl_model: Any) -> None:
    way = few(toy_model, "cat", "dog")
    way.check(toy_model)
    with pytest.raises(
        DirectionError, match=r"'cat -> dog' belongs to the text encoder of toy .* not to that of toy-xl"
    ):
        way.check(toy_xl_model)


def test_the_fingerprint_knows_the_encoder_in_any_precision() -> None:
    from sfumato.models.stable_diffusion import StableDiffusion
    from tests.toy import toy_sd_pipeline

    def fingerprint(seed: int, dtype: torch.dtype, **changes: Any) -> str:
        pipeline = toy_sd_pipeline(seed=seed, **changes).to(dtype=dtype)
        return StableDiffusion.from_pipeline(pipeline, name="toy", revision="any").text_fingerprint

    first = fingerprint(0, torch.float32)
    assert first == fingerprint(0, torch.float16) == fingerprint(0, torch.bfloat16)
    assert first == fingerprint(0, torch.float32, prediction_type="v_prediction")  # another network, the same encoder
    assert first != fingerprint(1, torch.float32)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("a cat", "a dog", ("cat", "dog")),
        ("A cat, sleeping", "a dog, sleeping", ("cat,", "dog,")),
        ("a cat", "an owl", ("cat", "owl")),
        ("a cat on grass", "a cat with a hat on grass", ("cat", "cat with a hat")),
        ("a cat", "a red cat", ("cat", "red cat")),
        ("a red cat", "a cat", ("red cat", "cat")),
        ("a cat in one style", "a dog in another style", ("cat in one", "dog in another")),
        ("sea", "sea at night", ("sea", "sea at night")),
        ("a cat", "A Cat", ("", "")),
    ],
)
def test_words_that_differ(source: str, target: str, words: tuple[str, str]) -> None:
    assert changed_words(source, target) == words


def test_templates_speak_of_the_word() -> None:
    assert {"a cat", "a photo of a cat in the snow"} <= set(template_sentences("cat"))
    assert "a drawing of an owl at night" in template_sentences("owl")
    assert "a photo of in bright colours at night" in template_sentences("in bright colours")


def test_sentences_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cats.txt"
    path.write_text("\ufeffa cat\n\n  the cät  \r\n", encoding="utf-8")
    assert read_sentences(path) == ["a cat", "the cät"]
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no sentence"):
        read_sentences(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no UTF-8 text"):
        read_sentences(path)
    with pytest.raises(UsageError, match="No such file"):
        read_sentences(tmp_path / "missing.txt")


def test_any_callable_may_write(toy_model: Any) -> None:
    found = make_direction(toy_model, "cat", "dog", write=lambda word: (f"the {word} {k}" for k in range(3)))
    assert found.sentences == (3, 3)
    for write, source, message in (
        (lambda word: [], "cat", "needs sentences"),
        (lambda word: ["a cat", " "], "cat", "none of them blank"),
        (template_sentences, " ", "source word of a direction is empty"),
        (lambda word: "a cat", "cat", "what write returns for 'cat' must be several sentences, got 'a cat'"),
        (lambda word: 5, "cat", "must be several sentences, got 5"),
        (int, "cat", "write must be a function from a word to sentences, got <class 'int'>"),
    ):
        with pytest.raises(UsageError, match=message):
            make_direction(toy_model, source, "dog", write=write)


def test_rows_are_led_alike(toy_model: Any) -> None:
    way, both = few(toy_model, "cat", "dog"), toy_model.encode_prompt(["a cat", "a hat"])
    one = way.apply(Condition(both.text[1:]))
    assert torch.allclose(way.apply(both).text[1:], one.text)


@pytest.mark.parametrize("change", ["name", "fingerprint", "sentences", "evil", "embeds", "infinite", "lacks"])
def test_types_in_files_are_checked(change: str, toy_model: Any, tmp_path: Path) -> None:
    way = few(toy_model, "cat", "dog")
    wrong: dict[str, Any] = {"name": 5, "fingerprint": 5, "sentences": 5, "evil": 1}
    tensors: dict[str, Any] = {"embeds": way.embeds}
    plain = {name: getattr(way, name) for name in ("fingerprint", "source", "target", "name", "sentences", "model")}
    if change in wrong:
        plain[change] = wrong[change]
    else:
        tensors = {
            "embeds": {"embeds": way.embeds[0]}, "infinite": {"embeds": way.embeds + float("inf")}, "lacks": {}
        }[change]  # fmt: skip
    path = save_tensors(tmp_path / "way.safetensors", tensors, plain, KIND)
    with pytest.raises(DirectionError, match=r"the direction .* (is damaged|holds 'evil')"):
        Direction.load(path)


def test_a_direction_of_another_shape_is_refused(toy_model: Any) -> None:
    way = few(toy_model, "cat", "dog")
    with pytest.raises(DirectionError, match="77 tokens of 16 channels, the model's embeddings 77 of 32"):
        replace(way, shift=Condition(way.embeds[..., :16])).apply(toy_model.encode_prompt("a cat"))
