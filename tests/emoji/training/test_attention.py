"""Attention of words to their things: the loss pulls the right way, areas under the ROC curve are the textbook's."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from sfumato.emoji.training.attention import (
    area_under_curve,
    attention_loss,
    curve_areas,
    record_maps,
    recorded_maps,
    relation_loss,
    snow_loss,
    word_maps,
)
from sfumato.emoji.training.networks import SIZES, build_unet


def two_things() -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of two things on 256 positions, and shares: thing 0 is token 1, thing 1 tokens 2 and 3, its tint 4."""
    masks = torch.zeros(1, 2, 256)
    masks[0, 0, :40] = 1
    masks[0, 1, 100:150] = 1
    share = torch.zeros(1, 3, 2, 6)
    share[0, 0, 0, 1] = 1
    share[0, 0, 1, 2:4] = 0.5
    share[0, 1, 1, 4] = 1
    return masks, share


NO_STYLE = torch.zeros(1, 6)


def test_the_loss_is_least_where_words_lie_on_their_things() -> None:
    masks, share = two_things()
    right = torch.full((1, 256, 6), 1e-4)
    right[0, :40, 1] = 1.0
    right[0, 100:150, 2:5] = 1 / 3
    swapped = right[..., [0, 2, 1, 1, 1, 5]]
    even = torch.full((1, 256, 6), 1 / 6)
    losses = [float(attention_loss(maps, share, masks, NO_STYLE)) for maps in (right, even, swapped)]
    assert losses[0] < 0.05
    assert losses[0] < losses[1] < losses[2]


def test_a_word_in_a_few_spots_of_its_thing_costs_more_than_one_all_over_it() -> None:
    masks, share = two_things()
    over, spots = torch.full((2, 1, 256, 6), 1e-4)
    over[0, :40, 1], over[0, 100:150, 2:5] = 0.2, 0.1
    spots[0, :2, 1], spots[0, 100:102, 2:5] = 0.9, 0.3
    assert float(attention_loss(over, share, masks, NO_STYLE)) < float(attention_loss(spots, share, masks, NO_STYLE))


def test_the_loss_moves_attention_onto_the_things() -> None:
    masks, share = two_things()
    logits = torch.zeros(1, 256, 6, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        attention_loss(logits.softmax(-1), share, masks, NO_STYLE).sum().backward()
        optimizer.step()
    areas = curve_areas(word_maps(logits.softmax(-1).detach(), share), share.sum(-1) > 0, masks)
    assert min(areas["own"]) > 0.99
    assert min(areas["tint"]) > 0.99
    names = word_maps(logits.softmax(-1).detach(), share)[0, 0]
    inside, across = (names * masks[0]).sum(-1), (names * masks[0].flip(0)).sum(-1)
    assert (across < inside / 100).all()


def test_half_of_a_place_is_enough_so_that_other_words_are_read() -> None:
    masks, share = two_things()
    all_of_it, half, little = (torch.full((1, 256, 6), 1e-4) for _ in range(3))
    for maps, part in ((all_of_it, 1.0), (half, 0.5), (little, 0.2)):
        maps[0, :40, 1], maps[0, 100:150, 2:5] = part, part / 3
    losses = [float(attention_loss(maps, share, masks, NO_STYLE)) for maps in (all_of_it, half, little)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)
    assert losses[2] > losses[1] + 0.2


def test_a_style_that_is_told_is_looked_at_from_all_things() -> None:
    masks, share = two_things()
    told = torch.zeros(1, 6)
    told[0, 5] = 1
    without = torch.full((1, 256, 6), 1e-4)
    without[0, :40, 1], without[0, 100:150, 2:5] = 0.8, 0.27
    looked_at = without.clone()
    looked_at[..., 5] = 0.1
    assert float(attention_loss(looked_at, share, masks, told)) < float(attention_loss(without, share, masks, told)) - 1


def test_a_relation_that_is_told_is_looked_at_from_the_thing_before_it() -> None:
    masks, share = two_things()
    share[0, 2, 0, 5] = 1  # token 5: what the second thing is right of
    without = torch.full((1, 256, 6), 1e-4)
    without[0, :40, 1], without[0, 100:150, 2:5] = 0.8, 0.27
    looked_at, from_the_other = without.clone(), without.clone()
    looked_at[0, :40, 5] = 0.15
    from_the_other[0, 100:150, 5] = 0.15
    losses = [float(relation_loss(maps, share, masks)) for maps in (looked_at, without, from_the_other)]
    assert losses[0] < losses[1] - 0.5
    assert losses[1] < losses[2]


def test_words_of_snow_are_looked_at_where_no_thing_is() -> None:
    masks, _ = two_things()
    snow, ground = torch.tensor([[0.0, 0, 0, 0, 0, 1]]), masks.sum(1) == 0
    maps = {name: torch.full((1, 256, 6), 0.01) for name in ("ground", "things", "nowhere")}
    maps["ground"][ground], maps["things"][~ground] = 0.2, 0.2
    losses = {name: float(snow_loss(one, snow, masks)) for name, one in maps.items()}
    assert losses["ground"] == 0
    assert losses["things"] == losses["nowhere"] > 1
    assert float(snow_loss(maps["nowhere"], torch.zeros(1, 6), masks)) == 0


def test_words_that_are_not_told_cost_nothing() -> None:
    masks, share = two_things()
    maps = torch.rand(1, 256, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert float(attention_loss(maps, torch.zeros_like(share), masks, NO_STYLE)) == 0
    assert float(relation_loss(maps, torch.zeros_like(share), masks)) == 0


@pytest.mark.parametrize(
    ("scores", "area"),
    [([1.0, 2.0, 3.0, 4.0], 1.0), ([4.0, 3.0, 2.0, 1.0], 0.0), ([1.0, 1.0, 1.0, 1.0], 0.5), ([1, 3, 2, 4], 0.75)],
)
def test_the_area_under_the_curve_counts_right_pairs(scores: list[float], area: float) -> None:
    assert area_under_curve(torch.tensor(scores), torch.tensor([False, False, True, True])) == pytest.approx(area)


def test_recording_changes_no_output_and_sees_the_16x16_layers() -> None:
    torch.manual_seed(0)
    unet = build_unet(SIZES["toy"]).eval()
    unet.set_attn_processor(AttnProcessor())
    latents, text = torch.randn(2, 4, 32, 32), torch.randn(2, 40, 16)
    with torch.no_grad():
        plain = unet(latents, 500, text).sample
        record_maps(unet)
        recorded = unet(latents, 500, text).sample
    maps = recorded_maps(unet)
    assert torch.allclose(plain, recorded, atol=1e-5)
    assert maps.shape == (2, 256, 40)
    assert torch.allclose(maps.sum(-1), torch.ones(2, 256), atol=1e-5)
