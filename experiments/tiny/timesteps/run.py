"""Which timestep sampling trains best?

Published: Pusa, tables 2 and 5b; PTSS is FVDM's.
"""

from experiments.tiny.lab import Lab
from experiments.tiny.table import publish
from experiments.tiny.training import I2V, SHARED, VTA, Recipe, image_to_video_at

STUDY = "timesteps"
RECIPES = (
    VTA,
    *(Recipe(name=f"PTSS p={p}", sampler="ptss", probability=p) for p in (0.8, 0.5, 0.2)),
    I2V,
    SHARED,
)
STRENGTHS = (1.0, 1.4, 1.7)


def run(lab: Lab) -> None:
    """Trains adapters with every sampling; measures at half length, and at full at 3 strengths."""
    last, results = lab.scale.train_steps, {}
    points = [(max(last // 2, 1), 1.0), *((last, x) for x in lab.some(STRENGTHS))]
    for recipe in RECIPES[:1] if lab.scale.thin else RECIPES:
        for step, strength in points:
            cells = image_to_video_at(lab, recipe, step, strength)
            results[recipe.name, f"{step} x {strength:g}"] = cells
    publish(lab, STUDY, results, ("error", "coherent", "direction"))
