"""Seconds of the real-size networks of Wan2.1 in float32 on a CPU, ours beside Diffusers'.

  python -m experiments.bench_cpu                        (some minutes on two cores at rest)
  python -m experiments.bench_cpu --part vae-decode      (one part)
  python -m experiments.bench_cpu --quick                (tiny networks: proves that it runs)

Question: are the networks slower here than in Diffusers? Three parts, random weights of the peer
carried over by our converter, so that both do the same work, which is checked:

    vae-encode, vae-decode    9 frames of 128 x 128 through the VAE of Wan2.1, as pipelines run it
    dit                       four layers of the 1.3B model, 9 frames of 256 x 256: 768 tokens

Ours and theirs take turns in one process, with as many threads as the process may use cores, so
that whatever else the machine does falls on both; medians of the turns, the first of which is not
counted. The peer's DiT takes one timestep per clip, its quickest form, ours one per frame. A ratio
above 1 says that ours is faster. Prints a table, and one JSON object last.

Needs the extra [test].
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.tables import load
from pusa_jax.convert.wan import dit as dit_tables
from pusa_jax.convert.wan import vae as vae_tables
from pusa_jax.convert.wan.published import diffusers_vae
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.models.families import preset
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.testing.compare import from_house_layout, to_house_layout
from pusa_jax.weights.leaves import assemble, shapes_of

FRAMES, LATENT_FRAMES = 9, 3
LIMIT = 1e-3
"""Relative difference from which on the two do not compute the same; float32 gives some 1e-5."""

PAUSE = 0.2
"""Seconds between two turns, in which the threads of the one before fall asleep."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """One computation in both libraries, which return when their work is done.

    Attributes:
      ours: gives [B, T, H, W, C].
      theirs: gives [B, C, T, H, W].
    """

    name: str
    ours: Callable[[], np.ndarray]
    theirs: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Networks and pictures; the side is that of the VAE's frames, the DiT's are twice as wide."""

    vae: VAEConfig
    dit: DiTConfig
    side: int


def sizes(*, is_quick: bool) -> Sizes:
    """The real ones, or tiny ones."""
    real = preset("wan2.1-t2v-1.3b")
    if is_quick:
        small = DiTConfig(
            dim=48, ffn_dim=80, num_heads=2, num_layers=2, text_dim=24, text_len=7, freq_dim=32
        )
        return Sizes(vae=dataclasses.replace(real.vae, dim=8), dit=small, side=32)
    four = dataclasses.replace(real.dit, num_layers=4, compute_dtype="float32")
    return Sizes(vae=real.vae, dit=four, side=128)


def carried(peer: Any, rules: Any, build: Callable[[], nnx.Module]) -> Any:
    """Our network with the weights of the peer."""
    tensors = {name: tensor.detach().numpy() for name, tensor in peer.state_dict().items()}
    return assemble(build, load(ArrayTensors(tensors), rules, shapes_of(build)))


def autoencoders(config: VAEConfig, side: int) -> Iterator[Pair]:
    """Encoding and decoding of one clip."""
    import diffusers
    import torch

    torch.manual_seed(0)
    peer: Any = diffusers.AutoencoderKLWan.from_config(diffusers_vae(config))
    peer.eval()
    rules = vae_tables.diffusers_rules(config)
    module = carried(peer, rules, lambda: WanVAE(config, rngs=nnx.Rngs(0)))
    ours = Autoencoder(module, WAN21.codec, config)
    mean, std = (
        torch.tensor(x).reshape(1, -1, 1, 1, 1)
        for x in (peer.config.latents_mean, peer.config.latents_std)
    )
    rng, cells = np.random.default_rng(0), side // config.spatial_stride
    clip = rng.uniform(-1, 1, (1, 3, FRAMES, side, side)).astype(np.float32)
    latents = rng.standard_normal((1, config.z_dim, LATENT_FRAMES, cells, cells), np.float32)
    house_clip, house_latents = (np.asarray(to_house_layout(x)) for x in (clip, latents))

    def encoded() -> np.ndarray:
        with torch.inference_mode():
            found = peer.encode(torch.from_numpy(clip)).latent_dist.mode()
            return ((found - mean) / std).numpy()

    def decoded() -> np.ndarray:
        with torch.inference_mode():
            return peer.decode(torch.from_numpy(latents) * std + mean).sample.numpy()

    yield Pair(
        name="vae-encode",
        ours=lambda: ours.encode(house_clip),
        theirs=encoded,
    )
    yield Pair(
        name="vae-decode",
        ours=lambda: ours.decode(house_latents),
        theirs=decoded,
    )


def denoisers(config: DiTConfig, side: int) -> Iterator[Pair]:
    """One forward of one clip."""
    import diffusers
    import torch

    torch.manual_seed(0)
    peer: Any = diffusers.WanTransformer3DModel(
        patch_size=config.patch_size,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_dim,
        out_channels=config.out_dim,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=config.eps,
    ).eval()
    rules = dit_tables.diffusers_rules(config)
    module = carried(peer, rules, lambda: WanDiT(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, config.in_dim, LATENT_FRAMES, side, side), np.float32)
    text = rng.standard_normal((1, config.text_len, config.text_dim), np.float32)
    run = jax.jit(lambda dit, x, t, c: dit(x, t, dit.project_text(c)))
    house = np.asarray(to_house_layout(latents))
    per_frame = np.full((1, LATENT_FRAMES), 500.0, np.float32)

    def velocity() -> np.ndarray:
        inputs = (torch.from_numpy(x) for x in (latents, per_frame[:, 0], text))
        with torch.inference_mode():
            return peer(*inputs).sample.numpy()

    yield Pair(
        name="dit",
        ours=lambda: np.asarray(run(module, house, per_frame, text)),
        theirs=velocity,
    )


def pairs(chosen: Sizes, part: str | None) -> Iterator[Pair]:
    """The parts that were asked for; None is all of them."""
    if part != "dit":
        for pair in autoencoders(chosen.vae, chosen.side):
            if part in (None, pair.name):
                yield pair
    if part in (None, "dit"):
        yield from denoisers(chosen.dit, 2 * chosen.side // chosen.vae.spatial_stride)


def timed(pair: Pair, repeats: int) -> dict[str, Any]:
    """Seconds of both, in turns.

    Raises:
      ArithmeticError: they do not compute the same.
    """
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    result, expected = np.asarray(from_house_layout(pair.ours())), pair.theirs()  # compiles
    gap = float(np.abs(result - expected).max() / np.abs(expected).max())
    if not gap <= LIMIT:
        raise ArithmeticError(f"{pair.name}: results differ by {gap:.2g} of the largest value.")
    for turn in range(repeats):
        for who in sorted(times, reverse=bool(turn % 2)):
            time.sleep(PAUSE)
            since = time.perf_counter()
            getattr(pair, who)()
            times[who].append(time.perf_counter() - since)
    medians = {who: statistics.median(each) for who, each in times.items()}
    return {
        "part": pair.name,
        **medians,
        "ratio": medians["theirs"] / medians["ours"],
        "fastest": {who: min(each) for who, each in times.items()},
        "times": times,
        "difference": gap,
    }


def line(row: Mapping[str, Any]) -> str:
    """A row for people."""
    best = row["fastest"]["theirs"] / row["fastest"]["ours"]
    return (
        f"{row['part']:12}{row['ours']:9.3f} s{row['theirs']:12.3f} s{row['ratio']:9.2f}"
        f"{best:10.2f}{row['difference']:12.1e}"
    )


def main() -> None:
    """Times the parts and prints them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", choices=("vae-encode", "vae-decode", "dit"))
    parser.add_argument("--repeats", type=int, default=7, help="turns (default: 7)")
    parser.add_argument("--quick", action="store_true", help="tiny networks")
    parser.add_argument("--output", help="file for the JSON object as well")
    args = parser.parse_args()
    import diffusers
    import torch

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    print(f"{'':12}{'ours':>11}{'Diffusers':>14}{'ratio':>9}{'fastest':>10}{'difference':>12}")
    rows = []
    for pair in pairs(sizes(is_quick=args.quick), args.part):
        rows.append(timed(pair, args.repeats))
        print(line(rows[-1]), flush=True)
    record = {
        "cores": cores,
        "load": os.getloadavg(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "quick": args.quick,
        "parts": rows,
    }
    text = json.dumps(record)
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
