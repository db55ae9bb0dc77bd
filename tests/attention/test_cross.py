"""Edits of the layout map see image to text alone, wherever these stand in a site's sequence."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.attention import patch
from sfumato.attention.cross import CrossAttentionEdit, CrossAttentionMaps, MapEdit, OneEach, Refine, Replace, Reweight
from sfumato.attention.inject import InjectSelfAttention
from sfumato.attention.layout_maps import attended, layout_map, with_layout_map
from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.edits.task import EditTask
from sfumato.inversions.result import Inversion
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


def given(site: AttentionSite) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of two branches, (guidance, branch, image, head, token, head_dim)."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (IMAGE, TEXT) if site.kind == "cross" else (IMAGE + TEXT, IMAGE + TEXT)
    query, key, value = (torch.randn(1, 2, 1, 2, count, 5, generator=generator) for count in (queries, keys, keys))
    return query, key, value


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
@pytest.mark.parametrize("masked", [False, True])
def test_the_layout_map_is_a_part_of_the_softmax_map(site: AttentionSite, masked: bool) -> None:
    query, key, value = given(site)
    mask = torch.linspace(-1, 1, key.shape[-2]).expand(1, 2, 1, 1, 1, -1) if masked else None
    whole = (query @ key.transpose(-1, -2) + (0 if mask is None else mask)).softmax(dim=-1)
    maps = layout_map(query, key, mask, 1.0, site)
    torch.testing.assert_close(maps, whole[..., site.image_queries, site.text_keys])

    own = with_layout_map(maps, maps, (query, key, value), mask, 1.0, site)
    torch.testing.assert_close(own, whole @ value)
    doubled = whole.clone()
    doubled[..., site.image_queries, site.text_keys] *= 2.0
    changed = with_layout_map(maps, 2.0 * maps, (query, key, value), mask, 1.0, site)
    torch.testing.assert_close(changed, doubled @ value)


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_a_swap_moves_the_tokens_of_the_sources_maps(site: AttentionSite) -> None:
    maps, swapped = layout_map(*given(site)[:2], None, 1.0, site), torch.eye(TEXT)[[1, 0, 2]][None]
    before = maps.clone()
    edit = CrossAttentionEdit(Replace(swapped), torch.ones(2, 1, TEXT))
    assert edit.selects(site)
    edited = edit.edit_maps(maps, site, STEP)
    torch.testing.assert_close(edited, torch.cat([maps[:, :1], maps[:, :1] @ swapped[0]], dim=1))
    assert torch.equal(maps, before), "what is handed over is not written to"


SWAP = Replace(torch.rand(1, TEXT, TEXT, generator=torch.Generator().manual_seed(1)))
REFINE = Refine(torch.tensor([[0, 2, -1]]), torch.tensor([[1.0, 1.0, 0.0]]))
FACTORS = torch.tensor([[1.0, -0.5, 2.0]])


@pytest.mark.parametrize(
    "edit",
    [SWAP, REFINE, Reweight(FACTORS), Reweight(FACTORS, REFINE), OneEach((REFINE, SWAP))],
    ids=["swap", "refine", "reweight", "reweight refined", "one each"],
)
@pytest.mark.parametrize("alpha", [(1.0, 1.0, 1.0), (1.0, 0.0, 0.25)], ids=["whole", "in part"])
@pytest.mark.parametrize("chunks", [1, 2])
def test_an_edit_of_maps_is_one_of_values(edit: MapEdit, alpha: tuple[float, ...], chunks: int) -> None:
    """Without the edited map, output and mean over heads are as with it, also for prompts of more chunks."""
    generator, branches = torch.Generator().manual_seed(2), 3 if isinstance(edit, OneEach) else 2
    query, key, value = (
        torch.randn(1, branches, 2, 2, count, 5, generator=generator) for count in (IMAGE, TEXT * chunks, TEXT * chunks)
    )
    control = CrossAttentionEdit(edit, torch.tensor(alpha).expand(2, branches - 1, TEXT))
    control.at_step(STEP)
    maps = layout_map(query, key, None, 0.5, SITES["cross"])
    calls, made = list[int](), list[int]()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        calls.append(query.shape[1])
        return attended(query, key, value, None, 0.5)

    def make(query: Tensor, key: Tensor) -> Tensor:
        made.append(query.shape[1])
        return layout_map(query, key, None, 0.5, SITES["cross"])

    edited = control.edit_maps(maps, SITES["cross"], STEP)
    output = control.without_map(query, key, value, attend, SITES["cross"])
    torch.testing.assert_close(output, edited @ value)
    output, mean = control.with_mean_map(query, key, value, make, SITES["cross"], STEP)
    torch.testing.assert_close(output, edited @ value)
    torch.testing.assert_close(mean, edited.mean(dim=3, keepdim=True))
    of_source_alone = edit is SWAP or (isinstance(edit, Reweight) and edit.inner is None)
    nothing_own = of_source_alone and alpha == (1.0, 1.0, 1.0) and chunks == 1
    assert calls == [branches if nothing_own else 2 * branches - 1]
    assert made == ([1] if nothing_own else [1, branches - 1])


def test_maps_are_made_where_they_are_looked_at_alone(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt-to-Prompt adds up the maps of one grid; all other layers keep the fused kernel."""
    made: set[tuple[int, int]] = set()

    def noted(query: Tensor, key: Tensor, mask: Any, scale: float, site: AttentionSite) -> Tensor:
        made.add(site.grid)
        return layout_map(query, key, mask, scale, site)

    monkeypatch.setattr(patch, "layout_map", noted)
    start = Inversion("drawn", torch.randn(1, 4, 32, 32), tuple(tiny_model.schedule.timesteps(2)))
    prompt_to_prompt(EditTask(tiny_model, start, "a cat on a mat", ["a dog on a mat"]))
    assert made == {(16, 16)}


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_maps_are_of_image_positions_and_tokens(site: AttentionSite) -> None:
    maps = CrossAttentionMaps()
    maps.begin(Layout(("cond",), ("source", "target"), 1, (32, 32)), [site])
    assert maps.selects(site)
    seen = layout_map(*given(site)[:2], None, 1.0, site)
    assert maps.edit_maps(seen, site, STEP) is seen
    assert maps.average.shape == (2, 1, 8, 8, TEXT)
    torch.testing.assert_close(maps.average, seen[0].mean(dim=2).unflatten(2, (8, 8)))


@pytest.mark.parametrize("name", ["image first", "text first"])
def test_image_to_image_is_the_sources_where_text_stands_beside_it(name: str) -> None:
    site, (query, key, value) = SITES[name], given(SITES[name])
    edit = InjectSelfAttention(lambda _: True, 0, 1)
    assert edit.selects(site)
    new_query, new_key, new_value = edit.edit_qkv(query, key, value, site, STEP)
    assert new_value is value
    scores, own = new_query @ new_key.transpose(-1, -2), query @ key.transpose(-1, -2)
    image, text = site.image_queries, site.text_keys
    torch.testing.assert_close(scores[:, 1, ..., image, image], own[:, 0, ..., image, image])
    torch.testing.assert_close(scores[:, 1, ..., text, text], own[:, 1, ..., text, text])
    assert not torch.allclose(own[:, 1, ..., image, image], own[:, 0, ..., image, image])


def test_maps_are_of_a_quarter_of_the_latents_and_of_16x16_at_least() -> None:
    sites = [AttentionSite(str(side), "cross", 0.0, (side, side), None, WHOLE, None, WHOLE) for side in (64, 32, 16, 8)]
    alone = AttentionSite("self", "self", 0.0, (32, 32), None, WHOLE, WHOLE, None)
    for side, chosen in ((64, "16"), (32, "16"), (16, "16"), (128, "32")):
        maps = CrossAttentionMaps()
        maps.begin(Layout(("cond",), ("source",), 1, (side, side)), [alone, *sites])
        assert [site.name for site in [alone, *sites] if maps.selects(site)] == [chosen]
