"""Adapters change what they say they change, row by row, and leave the model as found."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.adaptation.lora import Lora, RowAdapters, adapted, clamped_rank, widest_rank
from sfumato.errors import ModelError, UsageError
from sfumato.models.base import Model
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.loop import sample


def random_lora(model: Model, rank: int, seed: int) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    fresh = Lora.fresh(model, rank, generator=generator)
    factors = {
        name: (down, 0.3 * torch.randn(up.shape, generator=generator)) for name, (down, up) in fresh.factors.items()
    }
    return Lora(factors)


def predict(model: Model, rows: int = 1) -> Tensor:
    latents = torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(latents, 500, model.encode_prompt("a cat").expand(rows))


def test_a_fresh_adapter_changes_nothing(toy_model: Model) -> None:
    lora = Lora.fresh(toy_model, 4, generator=torch.Generator().manual_seed(0))
    before = predict(toy_model)
    with adapted(toy_model, lora):
        assert torch.equal(predict(toy_model), before)
    down = torch.cat([down.flatten() for down, _ in lora.factors.values()])
    assert down.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert all(name.rpartition(".")[2] in {"to_q", "to_k", "to_v", "to_out"} for name in lora.factors)


def test_adapts_as_merged_weights_do(toy_model: Model) -> None:
    lora, seen = random_lora(toy_model, 4, 1), {}

    def compare(name: str, hidden_states: Tensor, output: Tensor) -> Tensor:
        down, up = lora.factors[name]
        seen[name] = output, hidden_states, up @ down
        return output + F.linear(hidden_states, up @ down)

    with toy_model.projection_hook(lora.factors.keys(), compare):
        merged = predict(toy_model)
    with adapted(toy_model, lora):
        torch.testing.assert_close(predict(toy_model), merged)
    assert set(seen) == set(lora.factors)


def test_leaves_the_model_as_found(toy_model: Model) -> None:
    before = predict(toy_model)
    with adapted(toy_model, random_lora(toy_model, 2, 1)):
        assert not torch.allclose(predict(toy_model), before)
    assert torch.equal(predict(toy_model), before)
    with pytest.raises(UsageError), adapted(toy_model, random_lora(toy_model, 2, 1)):
        toy_model.latent_shape((7, 7))
    assert torch.equal(predict(toy_model), before)


def test_every_row_has_its_own_adapter(toy_model: Model) -> None:
    wide, narrow = random_lora(toy_model, 4, 1), random_lora(toy_model, 2, 2)
    layout = Layout(("uncond", "cond"), ("first", "second"), 1, (8, 8))
    with RowAdapters({"uncond": narrow, "cond": [wide, None]}).installed(toy_model, layout):
        together = predict(toy_model, 4)
    for row, lora in enumerate((narrow, narrow, wide, None)):
        with adapted(toy_model, lora):
            torch.testing.assert_close(together[[row]], predict(toy_model, 4)[[row]], atol=1e-5, rtol=1e-4)


def test_long_runs_of_rows_share_an_adapter(toy_model: Model) -> None:
    wide, narrow = random_lora(toy_model, 4, 1), random_lora(toy_model, 2, 2)
    layout = Layout(("uncond", "cond"), ("first", "second", "third"), 1, (8, 8))
    for uncond, cond in ((narrow, wide), (None, wide)):
        with RowAdapters({"uncond": uncond, "cond": cond}).installed(toy_model, layout):
            together = predict(toy_model, 6)
        for half, lora in ((slice(0, 3), uncond), (slice(3, 6), cond)):
            with adapted(toy_model, lora):
                torch.testing.assert_close(together[half], predict(toy_model, 6)[half], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_a_rank_that_fits_is_kept_without_a_note(rank: int, toy_model: Model) -> None:
    assert clamped_rank(toy_model, rank) == (rank, "")


def test_a_rank_beyond_every_layer_is_refused_where_the_user_asks(toy_model: Model) -> None:
    with pytest.raises(UsageError, match="rank=33 is more than any layer of toy allows: use at most 32"):
        clamped_rank(toy_model, 33)
    assert clamped_rank(toy_model, 33, chosen=True)[0] == 32
    assert "gets its own width" in clamped_rank(toy_model, 32)[1]


def test_serves_the_sampling_loop(toy_model: Model) -> None:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    branches = {"frame": Branch(toy_model.encode_prompt("a cat"), guidance_scale=3.0)}
    plain = sample(toy_model, noise, branches, num_inference_steps=2)
    control = RowAdapters({"uncond": None, "cond": random_lora(toy_model, 2, 3)})
    changed = sample(toy_model, noise, branches, num_inference_steps=2, controls=[control])
    assert not torch.allclose(changed, plain)
    assert torch.equal(sample(toy_model, noise, branches, num_inference_steps=2), plain)


def test_mixes_factor_by_factor(toy_model: Model) -> None:
    first, second = random_lora(toy_model, 2, 1), random_lora(toy_model, 2, 2)
    name = next(iter(first.factors))
    down, up = first.lerp(second, 0.25).factors[name]
    torch.testing.assert_close(down, 0.75 * first.factors[name][0] + 0.25 * second.factors[name][0])
    torch.testing.assert_close(up, 0.75 * first.factors[name][1] + 0.25 * second.factors[name][1])


def test_becomes_tensors_and_comes_back(toy_model: Model) -> None:
    lora = random_lora(toy_model, 2, 1)
    again = Lora.from_tensors(lora.tensors())
    assert again.factors.keys() == lora.factors.keys()
    assert all(torch.equal(a, b) for a, b in zip(again.tensors().values(), lora.tensors().values(), strict=True))


def test_a_rank_beyond_a_layer_is_the_layers_own(toy_model: Model) -> None:
    width = widest_rank(toy_model)
    assert Lora.fresh(toy_model, 10_000).rank >= width
    assert all(len(down) <= min(down.shape[1], len(up)) for down, up in Lora.fresh(toy_model, 10_000).factors.values())


def test_gradients_reach_the_factors_alone(toy_model: Model) -> None:
    lora = Lora.fresh(toy_model, 2, generator=torch.Generator().manual_seed(0))
    for tensor in lora.tensors().values():
        tensor.requires_grad_()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with adapted(toy_model, lora):
        toy_model.predict(latents, 500, toy_model.encode_prompt("a cat")).square().mean().backward()
    assert all(up.grad is not None and up.grad.abs().sum() > 0 for _, up in lora.factors.values())


def test_another_networks_adapter_is_refused(toy_model: Model) -> None:
    foreign = Lora({"nowhere.to_q": (torch.zeros(1, 4), torch.zeros(4, 1))})
    with pytest.raises(ModelError, match=r"no projection nowhere\.to_q"), adapted(toy_model, foreign):
        pass
