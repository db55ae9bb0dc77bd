"""Edits of the layout map see image to text alone, wherever these stand in a site's sequence."""

import pytest
import torch
from torch import Tensor

from sfumato.attention.cross import CrossAttentionEdit, CrossAttentionMaps, Replace
from sfumato.models.attention import AttentionSite
from sfumato.models.schedules import Level, Step
from sfumato.sampling.loop import Layout

STEP, TEXT, IMAGE = Step(0, 1, 1, -1, Level(0.95, 0.31), Level(1.0, 0.0)), 3, 64
WHOLE = slice(None)
SITES = {
    "cross": AttentionSite("cross", "cross", 0.0, (8, 8), None, WHOLE, None, WHOLE),
    "image first": AttentionSite("a", "joint", 0.0, (8, 8), None, slice(IMAGE), slice(IMAGE), slice(IMAGE, None)),
    "text first": AttentionSite(
        "b", "joint", 0.0, (8, 8), None, slice(-IMAGE, None), slice(-IMAGE, None), slice(-IMAGE)
    ),
}
CORNERS = {"cross": (0, 0), "a": (0, IMAGE), "b": (TEXT, 0)}
"""Where the layout map begins, query and key."""


def probs_of(site: AttentionSite) -> Tensor:
    """Of two branches, (guidance, branch, image, head, query, key)."""
    shape = (IMAGE, TEXT) if site.kind == "cross" else (IMAGE + TEXT, IMAGE + TEXT)
    return torch.rand(1, 2, 1, 2, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_a_swap_moves_image_to_text_alone(site: AttentionSite) -> None:
    probs, swapped = probs_of(site), torch.eye(TEXT)[[1, 0, 2]][None]
    edit = CrossAttentionEdit(Replace(swapped), torch.ones(2, 1, TEXT))
    assert edit.selects(site)
    edited = edit.edit_probs(probs, site, STEP)

    row, column = CORNERS[site.name]
    image, text, expected = slice(row, row + IMAGE), slice(column, column + TEXT), probs.clone()
    expected[:, 1:, ..., image, text] = probs[:, :1, ..., image, text] @ swapped[0]
    torch.testing.assert_close(edited, expected)
    assert torch.equal(probs, probs_of(site)), "what is handed over is not written to"


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_maps_are_of_image_positions_and_tokens(site: AttentionSite) -> None:
    maps = CrossAttentionMaps()
    maps.begin(Layout(("cond",), ("source", "target"), 1, (32, 32)), [site])
    assert maps.selects(site)
    probs = probs_of(site)
    assert maps.edit_probs(probs, site, STEP) is probs
    assert maps.average.shape == (2, 1, 8, 8, TEXT)
    row, column = CORNERS[site.name]
    block = probs[0, ..., row : row + IMAGE, column : column + TEXT]
    torch.testing.assert_close(maps.average, block.mean(dim=2).unflatten(2, (8, 8)))


def test_maps_are_of_a_quarter_of_the_latents_and_of_16x16_at_least() -> None:
    sites = [AttentionSite(str(side), "cross", 0.0, (side, side), None, WHOLE, None, WHOLE) for side in (64, 32, 16, 8)]
    alone = AttentionSite("self", "self", 0.0, (32, 32), None, WHOLE, WHOLE, None)
    for side, chosen in ((64, "16"), (32, "16"), (16, "16"), (128, "32")):
        maps = CrossAttentionMaps()
        maps.begin(Layout(("cond",), ("source",), 1, (side, side)), [alone, *sites])
        assert [site.name for site in [alone, *sites] if maps.selects(site)] == [chosen]
