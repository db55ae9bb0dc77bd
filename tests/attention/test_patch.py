"""Attention controls in compiled networks."""

from typing import Any

import torch

from sfumato.attention.mutual import MutualSelfAttention
from sfumato.attention.patch import AttentionControl
from sfumato.sampling.layout import Layout


def test_a_compiled_block_is_compiled_once_for_all_steps_that_an_edit_acts_on(toy_model: Any) -> None:
    """And once for those where it rests; both give what the plain block gives."""
    block, steps = toy_model.unet.get_submodule("mid_block.attentions.0"), toy_model.schedule.steps(6)
    names = [site.name for site in toy_model.sites((16, 16)) if site.kind == "self"]
    control = AttentionControl([MutualSelfAttention(names, range(2, 6))])
    features = torch.randn(4, 32, 4, 4)
    text = toy_model.encode_prompt(["", "", "a cat", "a dog"]).text
    graphs: list[Any] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(block, backend=counting, fullgraph=True)
    layout = Layout(("uncond", "cond"), ("source", "target"), 1, (16, 16))
    with torch.no_grad(), control.installed(toy_model, layout):
        for step in steps:
            control.at_step(step)
            expected = block(features, text, return_dict=False)[0]
            assert torch.equal(compiled(features, text, return_dict=False)[0], expected)
    assert len(graphs) == 2
