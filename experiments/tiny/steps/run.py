"""How many solver steps does image-to-video need?

Published: Pusa, table 4.
"""

from experiments.tiny.lab import Lab
from experiments.tiny.measuring import image_to_video
from experiments.tiny.table import publish

STUDY = "steps"
STEPS = (2, 5, 10, 20, 50)
QUICK_STEPS = (1, 2)


def run(lab: Lab) -> None:
    """Measures image-to-video with the adapters at every number of steps."""
    results = {}
    for steps in QUICK_STEPS if lab.scale.thin else STEPS:
        results["image-to-video", str(steps)] = lab.measure(
            "adapters x 1", lambda seed: lab.pusa(), "image-to-video", image_to_video, steps
        )
    publish(lab, STUDY, results, ("coherent", "direction", "error"))
