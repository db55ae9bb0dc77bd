"""The tokenizer that the tests build is CLIP's."""

from pathlib import Path

from tests.conformance.golden import COMMITTED, discover
from tests.conformance.tiny_sd import complete_tiny_sd


def test_token_ids_of_the_golden_prompts(tiny_sd: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_sd, subfolder="tokenizer")
    assert (len(tokenizer), tokenizer.model_max_length, tokenizer.pad_token_id) == (49408, 77, 49407)
    checked = 0
    for case in discover(COMMITTED):
        if "token_ids" in case.tensors and isinstance(case.prompts, list):
            # the prompts come first, the empty prompt last
            stored = case.tensors["token_ids"]
            ids = tokenizer([*case.prompts, ""], padding="max_length", max_length=77, return_tensors="pt").input_ids
            assert ids.tolist() == stored.tolist(), case.id
            checked += 1
    assert checked


def test_a_folder_with_its_own_tokenizer_is_used_as_it_is(tmp_path: Path, tiny_sd: Path) -> None:
    own = tmp_path / "tiny-sd" / "tokenizer"
    own.mkdir(parents=True)
    assert complete_tiny_sd(tmp_path, tmp_path / "copy") == tmp_path / "tiny-sd"

    elsewhere = complete_tiny_sd(tmp_path / "no-model-here", tmp_path / "copy")
    assert {path.name for path in elsewhere.iterdir()} == {path.name for path in tiny_sd.iterdir()}
