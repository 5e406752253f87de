"""Does a tiny Mochi learn image-to-video from levels per frame, as Wan does?"""

from flax import nnx

from experiments.tiny.lab import Lab
from experiments.tiny.measuring import Row, image_to_video, measure, text_to_video
from experiments.tiny.mochi.training import DIT, QUICK, WORLD, Amount, clips_of, features, trained
from experiments.tiny.table import publish
from experiments.tiny_world.evaluate import Model
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.models.mochi.family import MOCHI
from pusa_jax.weights.leaves import assemble

STUDY = "mochi"
STEPS = 16
TASKS = {"text-to-video": text_to_video, "image-to-video": image_to_video}


def run(lab: Lab) -> None:
    """Trains a base, VTA and a control for every seed and measures two tasks with each."""
    amount = QUICK if lab.scale.thin else Amount()
    sampling = lab.sampling(2 if lab.scale.thin else STEPS)
    results = {}
    for name in lab.some(("base", "control", "VTA")):
        for task, given in TASKS.items():

            def compute(seed: int, name=name, given=given) -> Row:
                model = model_of(seed, name, amount)
                return measure(model, given, sampling, lab.scale.count, seed, WORLD)

            row = f"tiny Mochi/{name} {amount.base} + {amount.further}, {task}"
            results[task, name] = lab.cells(row, compute)
    publish(lab, STUDY, results, ("error", "coherent", "direction"))


def model_of(seed: int, name: str, amount: Amount) -> Model:
    """What a seed trained, between its codec and the words."""
    leaves, codec = trained(seed, name, amount), clips_of(seed, amount.clips).codec
    return Model(
        dit=assemble(lambda: MochiDiT(DIT, rngs=nnx.Rngs(0)), leaves),
        encode=codec.encode,
        decode=codec.decode,
        text=features,
        family=MOCHI,
        stride=6,
    )
