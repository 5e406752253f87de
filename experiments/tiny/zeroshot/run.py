"""Which tasks does the model do that it was never trained for, before and after VTA?"""

from experiments.tiny.lab import Lab
from experiments.tiny.measuring import ZERO_SHOT
from experiments.tiny.table import publish
from experiments.tiny.zeroshot.chain import drift

STUDY = "zeroshot"
ROUNDS = 6
"""33 frames, and 20 more in each round but the first: 133, four times the length."""


def run(lab: Lab) -> None:
    """Measures every task, and extension repeated to four times the length."""
    models = {
        "base": ("base", lambda seed: lab.base),
        "adapters": ("adapters x 1", lambda seed: lab.pusa()),
    }
    results = {}
    for task, given in ZERO_SHOT.items():
        for series, model in models.items():
            results[series, task] = lab.measure(*model, task, given)
    publish(lab, STUDY, results, ("coherent", "direction", "error"))
    rounds = 2 if lab.scale.thin else ROUNDS
    count = max(lab.scale.count // 2, 1)
    repeated = {}
    for series, (name, load) in models.items():
        cells = lab.cells(
            f"repeated/{name}",
            lambda seed, m=load: drift(m(seed), lab.sampling(), count, seed, rounds),
        )
        for i in range(rounds):
            repeated[series, str(i + 1)] = [
                {name.split(" ")[0]: x for name, x in row.items() if name.endswith(f" {i + 1}")}
                for row in cells
            ]
    publish(lab, f"{STUDY}/repeated", repeated, ("coherent", "colour", "sideways", "speed"))
