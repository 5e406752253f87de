"""What does one timestep per latent frame cost over one per clip? Memory and FLOPs, compiled only.

  python -m experiments.vector_vs_scalar                      (v6e:2x4; needs pusa_jax[tpu], no TPU)
  python -m experiments.vector_vs_scalar --topology h100:8    (needs pusa_jax[cuda], no GPU)
  python -m experiments.vector_vs_scalar --preset mochi-1-preview --height 480 --width 848

Both programs are one guided sampling step, if nothing else is said of the 14B model at 720x1280 and
81 frames; the scalar one feeds the DiT the first frame's timestep alone. FLOPs by formula are those
of the model; the compiler's are what it counts outside of kernels, a loop's body once, so that its
difference times the number of layers bounds the true one. Exits with code 1 above 0.05 GB or 0.1 %.
"""

import argparse
import dataclasses
import sys

from pusa_jax.devices import topologies
from pusa_jax.devices.sharding import parse_mesh
from pusa_jax.models.families import preset

MEMORY_LIMIT = 0.05e9
FLOPS_LIMIT = 1e-3


def main() -> int:
    """Prints a table and returns whether the limits are kept, as an exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="wan2.1-t2v-14b")
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--topology", default="v6e:2x4")
    parser.add_argument("--mesh", default="data=2,context=4")
    args = parser.parse_args()
    topology = topologies.parse_topology(args.topology)
    topologies.prepare_process(topology)

    import jax

    from pusa_jax.devices.sharding import make_mesh
    from pusa_jax.inference.step import jitted_step
    from pusa_jax.planning import inference, report

    known = preset(args.preset)
    settings = dataclasses.replace(known.family.sampling, height=args.height, width=args.width)
    run = inference.Run(name=args.preset, preset=known, settings=settings)
    mesh = make_mesh(parse_mesh(args.mesh), topology.devices())

    family = run.preset.family

    def per_clip(dit, latents, timesteps, prepared):
        return family.velocity(dit, latents, timesteps[:, :1], prepared)

    scalar = dataclasses.replace(family, velocity=per_clip)
    rows = {}
    for name, variant, timesteps in (("per frame", family, None), ("per clip", scalar, 1)):
        with jax.set_mesh(mesh):
            step = jitted_step(variant, mesh)
            compiled = step.lower(*inference.abstract_step(run, mesh)).compile()
        model = run.passes * family.flops.velocity(run.dit, run.latent_shape, timesteps)
        counted = (compiled.cost_analysis() or {}).get("flops", float("nan"))
        rows[name] = (report.peak(compiled.memory_analysis()), model, counted)

    print(f"{run}, {args.topology}, mesh {args.mesh}\n")
    print(
        "| timesteps | peak per device, GB | model TFLOP per step | compiler's TFLOP per device |"
    )
    print("|---|---|---|---|")
    for name, (peak, model, counted) in rows.items():
        print(f"| {name} | {peak / 1e9:.4f} | {model / 1e12:.4f} | {counted / 1e12:.5f} |")
    memory, model, counted = (a - b for a, b in zip(*rows.values(), strict=True))
    share = model / rows["per clip"][1]
    bound = counted * run.dit.num_layers / (rows["per clip"][1] / len(mesh.devices.flat))
    print(f"\nper frame costs {memory / 1e9:+.4f} GB and {100 * share:.5f} % of the FLOPs")
    if bound == bound:
        print(f"(by the compiler's count at most {100 * bound:.5f} %)")
    return int(memory > MEMORY_LIMIT or share > FLOPS_LIMIT or bound > FLOPS_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
