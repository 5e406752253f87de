"""What does noise on the given frames buy, and what does it cost?"""

from experiments.tiny.lab import Lab
from experiments.tiny.measuring import at, extension, image_to_video, start_end
from experiments.tiny.table import publish

STUDY = "noise"
MULTIPLIERS = (0.0, 0.2, 0.4, 0.7)
TASKS = {"image-to-video": image_to_video, "start-end": start_end, "extension": extension}


def run(lab: Lab) -> None:
    """Measures three tasks with the adapters, the same multiplier on all given frames."""
    results = {}
    for name, task in TASKS.items():
        for multiplier in lab.some(MULTIPLIERS):
            what = f"{name} at {multiplier:g}" if multiplier else name
            results[name, f"{multiplier:g}"] = lab.measure(
                "adapters x 1", lambda seed: lab.pusa(), what, at(task, multiplier)
            )
    publish(lab, STUDY, results, ("kept", "coherent", "jump", "error"))
