"""The networks of SD3.5 medium and FLUX.1 dev at full size: shapes through the adapter, and one step at reduced depth.

    python benchmarks/flow_shapes.py sd35|flux-dev [--blocks 4] [--size 512]

Weights are random, and nothing is downloaded. The whole network is built on the meta device, where a step gives shapes
alone. Then a network of the full width and fewer blocks runs one step in bf16 on the processor, on one thread. Prints
parameters, bytes of the weights, the peak memory of the process, and processor seconds of the step, the second of two.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from sfumato.models.base import POOLED, Condition, Model
from sfumato.models.flux import Flux
from sfumato.models.rectified_flow import read_flow
from sfumato.models.sd3 import StableDiffusion3
from sfumato.models.silence import quiet

SD35: Final = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
}  # fmt: skip
FLUX: Final = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
TOKENS: Final = {"sd35": 77 + 256, "flux-dev": 512}


def main() -> None:
    """Builds, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=TOKENS)
    parser.add_argument("--blocks", type=int, default=4, help="of the network that runs; of FLUX, as many of each kind")
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)

    whole = full_size(args.name)
    print(json.dumps({"whole": args.name, **facts(whole), "output": list(one_step(whole, args.name, args.size).shape)}))
    part = full_size(args.name, blocks=args.blocks, device="cpu")
    one_step(part, args.name, args.size)
    begun = time.process_time()
    output = one_step(part, args.name, args.size)
    seconds = time.process_time() - begun
    assert bool(output.isfinite().all())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    print(json.dumps({"blocks": args.blocks, **facts(part), "seconds": round(seconds, 1), "peak_gb": round(memory, 2)}))


def full_size(name: str, *, blocks: int | None = None, device: str = "meta") -> Model:
    """The adapter around a network of full width in bf16, with random weights where it has any; no text encoders."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel

    depth = {} if blocks is None else {"num_layers": blocks}
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=4, latent_channels=16,
        )  # fmt: skip
        network: Any
        if name == "flux-dev":
            network = FluxTransformer2DModel(**FLUX | depth | ({"num_single_layers": blocks} if blocks else {}))
        else:
            dual = tuple(k for k in range(13) if blocks is None or k < blocks // 2)
            network = SD3Transformer2DModel(**SD35 | depth | {"dual_attention_layers": dual})
    with quiet():
        network, vae = (filled(part.to(torch.bfloat16), device) for part in (network, vae))
    parts = {"transformer": network, "vae": vae, "reader": None, "name": name, "revision": "", "channels": 16}
    if name == "flux-dev":
        flow = {"use_dynamic_shifting": True, "shift": 3.0}
        return Flux(**parts, schedule=read_flow(flow, grid="linspace"))
    return StableDiffusion3(**parts, schedule=read_flow({"shift": 3.0}, grid="table"))


def filled(network: nn.Module, device: str) -> nn.Module:
    """The network on the device; what is not meta gets small random weights."""
    if device == "meta":
        return network
    network = network.to_empty(device=device)
    # the same noise all over: a draw of billions takes long
    noise = (0.02 * torch.randn(2**20, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    for tensor in [*network.parameters(), *network.buffers()]:
        for part in tensor.detach().view(-1).split(len(noise)):
            part.copy_(noise[: len(part)])
    return network


@torch.no_grad()
def one_step(model: Model, name: str, size: int) -> torch.Tensor:
    """The network's output for one row of random latents."""
    shape = model.latent_shape((size, size))
    pooled = {"sd35": 2048, "flux-dev": 768}[name]
    text, vector, latents = (
        torch.zeros(sides, device=model.device, dtype=torch.bfloat16) + 0.1
        for sides in ((1, TOKENS[name], 4096), (1, pooled), (1, *shape))
    )
    return model.predict(latents, 500.0, Condition(text, {POOLED: vector}))


def facts(model: Any) -> dict[str, Any]:
    """Sizes of the network."""
    values = list(model.transformer.parameters())
    count = sum(value.numel() for value in values)
    weights = sum(value.numel() * value.element_size() for value in values)
    kinds = [site.kind for site in model.sites((64, 64))]
    return {
        "parameters": f"{count / 1e9:.2f} billion", "weights_gb": round(weights / 2**30, 2),
        "attention": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }  # fmt: skip


if __name__ == "__main__":
    main()
