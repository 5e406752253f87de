"""The arithmetic of FVD on recorded features, and which frames a clip has."""

import numpy as np
from golden import Comparison, Golden

from pusa_jax.evaluation.clips import indices
from pusa_jax.evaluation.frechet import distance, statistics
from pusa_jax.evaluation.fvd import FVDConfig
from pusa_jax.testing.compare import relative_error

FVD_LIMIT = 1e-6
STATISTICS_LIMIT = 1e-12


def check_distance(golden: Golden, case: dict):
    """Means, covariances and the distance."""
    name = case["name"]
    sides = {side: statistics(golden.tensor(f"in.{name}.{side}")) for side in ("real", "gen")}
    for side, found in sides.items():
        for what, value in (("mean", found.mean), ("cov", found.covariance)):
            expected = golden.tensor(f"out.{name}.{what}_{side}")
            yield Comparison(f"{what}_{side}", relative_error(value, expected), STATISTICS_LIMIT)
    found = distance(sides["real"], sides["gen"])
    expected = golden.tensor(f"out.{name}.fvd")
    yield Comparison("fvd", relative_error(np.asarray(found), expected), FVD_LIMIT)


def check_every_third(golden: Golden, case: dict):
    """Real clips are every third frame, as SkyTimelapse and Taichi are read for training."""
    expected = golden.tensor(f"out.{case['name']}.stride3")
    interval = FVDConfig().real_interval
    found = [indices(row["begin"], expected.shape[1], interval) for row in case["rows"]]
    wrong = np.count_nonzero(np.stack(found) != expected)
    yield Comparison("every third frame", float(wrong), 0, "indices")


def check_fvd(golden: Golden, case: dict):
    """A case of features, or that of frames."""
    check = check_every_third if "rows" in case else check_distance
    yield from check(golden, case)


CHECKS = {"fvdm_eval": check_fvd}
