"""How many steps does image-to-video take to learn: VTA against the recipe of Wan-I2V?"""

from experiments.tiny.lab import Lab
from experiments.tiny.measuring import image_to_video
from experiments.tiny.table import publish
from experiments.tiny.training import I2V, I2V_FULL, SHARED, VTA, VTA_FULL, image_to_video_at

STUDY = "efficiency"
RECIPES = (VTA, SHARED, I2V, VTA_FULL, I2V_FULL)
QUARTERS = (1, 2, 4)
"""Of the training, at which adapters are measured; full weights are measured at its end."""


def run(lab: Lab) -> None:
    """Trains every recipe with every seed and measures image-to-video along the way."""
    last = lab.scale.train_steps
    base = lab.measure("base", lambda seed: lab.base, "image-to-video", image_to_video)
    results = {("base", "0"): base}
    for recipe in lab.some(RECIPES):
        for quarters in QUARTERS[-1:] if recipe.full else lab.some(QUARTERS):
            step = max(last * quarters // 4, 1)
            results[recipe.name, str(step)] = image_to_video_at(lab, recipe, step)
    publish(lab, STUDY, results, ("error_1_4", "coherent", "direction"))
