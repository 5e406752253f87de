"""Scores of VBench-I2V that are published, for a table: the rows of Pusa V1.0's Table 1.

Source: arXiv 2507.16116, second version. SVD-XT has no total there, and the row of CogVideoX1.5-5B
is shifted by a column; both are left out.
"""

from collections.abc import Iterator, Mapping, Sequence

from pusa_jax.vbench.score import DIMENSIONS, Total

MEANS = ("Total", "I2V", "Quality")

PUBLISHED: Mapping[str, Sequence[float]] = {
    "Pusa V1.0, 10 steps": (
        87.32, 94.84, 79.80, 92.27, 96.02, 98.49, 52.60, 63.15, 68.27, 97.64, 99.24, 29.46,
    ),
    "Wan-I2V": (
        86.86, 92.90, 80.82, 94.86, 97.07, 97.90, 51.38, 64.75, 70.44, 96.95, 96.44, 34.76,
    ),
    "Magi-1": (
        89.28, 96.12, 82.44, 93.96, 96.74, 98.68, 68.21, 64.74, 69.71, 98.39, 99.00, 50.85,
    ),
    "Step-Video-TI2V": (
        88.36, 95.50, 81.22, 96.02, 97.06, 99.24, 48.78, 62.29, 70.44, 97.86, 98.63, 49.23,
    ),
    "Gen-4-I2V": (
        88.27, 95.65, 80.89, 93.23, 96.79, 98.99, 55.20, 61.77, 70.41, 97.84, 97.46, 68.26,
    ),
    "DynamiCrafter-512": (
        86.99, 93.53, 80.46, 93.81, 96.64, 96.84, 69.67, 60.88, 68.60, 97.21, 97.40, 31.98,
    ),
    "STIV": (
        86.73, 93.48, 79.98, 98.40, 98.39, 99.61, 15.28, 66.00, 70.81, 98.96, 97.35, 11.17,
    ),
    "CogVideoX-5b-I2V": (
        86.70, 94.79, 78.61, 94.34, 96.42, 98.40, 33.17, 61.87, 70.01, 97.19, 96.74, 67.68,
    ),
    "Animate-Anything": (
        86.48, 94.25, 78.71, 98.90, 98.19, 98.61, 2.68, 67.12, 72.09, 98.76, 98.58, 13.08,
    ),
    "SEINE-512": (
        85.52, 92.67, 78.37, 95.28, 97.12, 97.12, 27.07, 64.55, 71.39, 97.15, 96.94, 20.97,
    ),
    "I2VGen-XL": (
        85.28, 92.11, 78.44, 94.18, 97.09, 98.34, 26.10, 64.82, 69.14, 96.48, 96.83, 18.48,
    ),
    "ConsistI2V": (
        84.07, 91.91, 76.22, 95.27, 98.28, 97.38, 18.62, 59.00, 66.92, 95.82, 95.95, 33.92,
    ),
    "VideoCrafter": (
        82.57, 86.31, 78.84, 97.86, 98.79, 98.00, 22.60, 60.78, 71.68, 91.17, 91.31, 33.60,
    ),
}  # fmt: skip
"""Model -> percent: `MEANS`, then the dimensions in their order."""


def table(name: str, scores: Mapping[str, float], total: Total) -> str:
    """A model's scores above the published ones, as a table of Markdown in percent.

    Args:
      name: of the model.
      scores: of all dimensions, 0 to 1.
      total: of them.
    """
    own = [total.total, total.i2v, total.quality, *(scores[each] for each in DIMENSIONS)]
    rows = {name: [100 * value for value in own], **PUBLISHED}
    head = ["model", *MEANS, *(one.short for one in DIMENSIONS.values())]
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[str], rows: Mapping[str, Sequence[float]]) -> Iterator[str]:
    first = max(len(name) for name in (head[0], *rows))
    yield f"| {head[0]:{first}} | " + " | ".join(f"{name:>7}" for name in head[1:]) + " |"
    yield f"|{'-' * (first + 2)}|" + "|".join(["-" * 8 + ":"] * (len(head) - 1)) + "|"
    for name, values in rows.items():
        yield f"| {name:{first}} | " + " | ".join(f"{value:7.2f}" for value in values) + " |"
