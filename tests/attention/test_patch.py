"""Attention controls in compiled networks."""

from typing import Any

import pytest
import torch

from sfumato.attention.mutual import MutualSelfAttention
from sfumato.attention.patch import AttentionControl
from sfumato.attention.prompt_control import prompt_control
from sfumato.sampling.layout import Layout

STEPS, SIZE = 6, (16, 16)


def mutual(model: Any) -> AttentionControl:
    names = [site.name for site in model.sites(SIZE) if site.kind == "self"]
    return AttentionControl([MutualSelfAttention(names, range(2, STEPS))])


def prompt_to_prompt(model: Any) -> AttentionControl:
    """A word swap for some steps, self-attention for fewer, and maps that are added up at all."""
    return prompt_control(
        model, "a cat", ["a dog"], num_inference_steps=STEPS, latent_size=SIZE,
        cross_replace_steps=0.6, self_replace_steps=0.4,
    ).control  # fmt: skip


@pytest.mark.parametrize(
    ("make", "name", "channels", "grid", "graphs"),
    [(mutual, "mid_block.attentions.0", 32, 4, 2), (prompt_to_prompt, "up_blocks.2.attentions.0", 16, 16, 3)],
)
def test_a_compiled_block_is_compiled_once_for_all_steps_at_which_the_same_edits_act(
    make: Any, name: str, channels: int, grid: int, graphs: int, toy_model: Any
) -> None:
    """Whatever else differs from step to step; all give what the plain block gives."""
    block, control, seen = toy_model.unet.get_submodule(name), make(toy_model), []
    features = torch.randn(4, channels, grid, grid)
    text = toy_model.encode_prompt(["", "", "a cat", "a dog"]).text

    def counting(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    compiled = torch.compile(block, backend=counting, fullgraph=True)
    layout = Layout(("uncond", "cond"), ("source", "target"), 1, SIZE)
    with torch.no_grad(), control.installed(toy_model, layout):
        for step in toy_model.schedule.steps(STEPS):
            control.at_step(step)
            expected = block(features, text, return_dict=False)[0]
            assert torch.equal(compiled(features, text, return_dict=False)[0], expected)
    assert len(seen) == graphs
