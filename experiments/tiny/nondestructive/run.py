"""Does text-to-video survive VTA, and up to which strength of the adapters?"""

from experiments.tiny.lab import Lab
from experiments.tiny.measuring import text_to_video
from experiments.tiny.table import publish

STUDY = "nondestructive"
STRENGTHS = (0.0, 1.0, 1.4, 1.7, 2.0)


def run(lab: Lab) -> None:
    """Measures text-to-video of the base and of the adapters at every strength."""
    task = "text-to-video", text_to_video
    results = {("base", "-"): lab.measure("base", lambda seed: lab.base, *task)}
    for strength in lab.some(STRENGTHS):
        results["adapters", f"{strength:g}"] = lab.measure(
            f"adapters x {strength:g}", lambda seed, x=strength: lab.pusa(x), *task
        )
    publish(lab, STUDY, results, ("coherent", "colour", "direction"))
