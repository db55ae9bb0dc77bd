"""The networks of SD3.5 medium and FLUX.1 dev at full size, on the meta device: shapes alone."""

import pytest

from benchmarks.flow_shapes import facts, full_size, one_step


@pytest.mark.parametrize(
    ("name", "parameters", "attention"),
    [
        ("sd35", "2.24 billion", {"joint": 24, "self": 13}),
        ("flux-dev", "11.90 billion", {"joint": 57}),
    ],
)
def test_a_step_at_512_pixels_has_the_shapes_of_its_latents(
    name: str, parameters: str, attention: dict[str, int]
) -> None:
    model = full_size(name)
    output = one_step(model, name, 512)
    assert output.is_meta
    assert output.shape == (1, 16, 64, 64)
    found = facts(model)
    assert (found["parameters"], found["attention"]) == (parameters, attention)
    assert {site.grid for site in model.sites((64, 64))} == {(32, 32)}
