"""The model of the golden cases: its tokenizer is CLIP's; another folder may bring its own."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.conformance.golden import COMMITTED, discover
from tests.conformance.tiny_sd import copy_tiny_sd

TOKENIZER = COMMITTED / "tiny-sd" / "tokenizer"


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


def test_a_folders_own_model_is_taken_and_made_complete(tmp_path: Path) -> None:
    committed = copy_tiny_sd(tmp_path / "no-model-here", tmp_path / "a")
    assert (committed / "tokenizer" / "vocab.json").read_bytes() == (TOKENIZER / "vocab.json").read_bytes()

    own = tmp_path / "own" / "tiny-sd"
    own.mkdir(parents=True)
    (own / "model_index.json").write_text("its own")
    copy = copy_tiny_sd(tmp_path / "own", tmp_path / "b")
    assert (copy / "model_index.json").read_text() == "its own"
    assert (copy / "tokenizer" / "vocab.json").read_bytes() == (TOKENIZER / "vocab.json").read_bytes()

    (own / "tokenizer").mkdir()
    assert not list((copy_tiny_sd(tmp_path / "own", tmp_path / "c") / "tokenizer").iterdir())


@pytest.mark.parametrize("width", [4, 8, 16, 20])
def test_wide_heads_compute_the_same_attention(width: int) -> None:
    query, key, value = torch.randn(3, 2, 8, 5, width, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(5, 5).masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
    for scale in (None, 0.3):
        scores = query @ key.mT * (width**-0.5 if scale is None else scale) + mask
        output = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        torch.testing.assert_close(output, scores.softmax(dim=-1) @ value)
