"""Where does VTA act: which weights move, and who looks at the given frame?

Published: Pusa, section 3.4.
"""

from experiments.tiny.lab import Lab
from experiments.tiny.table import publish
from experiments.tiny.training import I2V_FULL, VTA, VTA_FULL, model_at
from experiments.tiny.where.look_back import shares
from experiments.tiny.where.moved import movement

STUDY = "where"
RECIPES = (VTA, VTA_FULL, I2V_FULL)
SHOWN = 0.0, 1.0
"""Noise on the frame whose attention is measured: given, and free."""


def run(lab: Lab) -> None:
    """Measures what the weights have moved, and attention to frame 0 by step."""
    last, results = lab.scale.train_steps, {}
    for recipe in lab.some(RECIPES):
        cells = lab.cells(
            f"moved/{recipe.name} {last}",
            lambda seed, r=recipe: movement(lab.base.dit, model_at(lab, r, seed, last).dit),
        )
        for part in cells[0]:
            results[recipe.name, part] = [{"moved": row[part]} for row in cells]
    publish(lab, f"{STUDY}/moved", results, ("moved",))
    results = {}
    models = {"base": lambda: lab.base, "adapters": lab.pusa}
    for name, load in models.items():
        for multiplier in SHOWN:
            what = f"{name}, frame 0 {'free' if multiplier else 'given'}"
            cells = lab.cells(
                f"attention/{what}",
                lambda seed, m=load, x=multiplier: shares(
                    m(), lab.sampling(), min(lab.scale.count, 20), seed, x
                ),
            )
            for step in cells[0]:
                results[what, step] = [{"attention": row[step]} for row in cells]
    publish(lab, f"{STUDY}/attention", results, ("attention",))
