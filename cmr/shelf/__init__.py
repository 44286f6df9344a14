"""What others made: the models of the papers' tables, and the authors' own weights."""

from cmr.fast.scoring import floats_per_pair
from cmr.shelf.assignment import HardAssignment, RegionMessages
from cmr.shelf.baselines import CMPM, DEVISE, DVSA, ORDER, PVSE, VSRN, ProjectionMatching, best_regions, projection_matching
from cmr.shelf.released import from_released

__all__ = ["CMPM", "DEVISE", "DVSA", "HardAssignment", "ORDER", "PVSE", "VSRN", "ProjectionMatching", "RegionMessages", "best_regions",
           "from_released", "projection_matching"]

# Numbers that scoring holds for a pair, so that tiles fit. They stand here because a model knows nothing of `cmr.fast`.

@floats_per_pair.register
def order_floats(model: ORDER, m: int, n: int, d: int) -> int: "All differences, before and after the square."; return 2 * d + 2


@floats_per_pair.register(HardAssignment)
@floats_per_pair.register(DVSA)
def best_region_floats(model: DVSA | HardAssignment, m: int, n: int, d: int) -> int:
    "The table of products, its masked copy and, for each word, its best region and that region's number."
    return 2 * m * n + 4 * n


@floats_per_pair.register
def cmpm_floats(model: CMPM, m: int, n: int, d: int) -> int: "The score itself."; return 1


@floats_per_pair.register
def pvse_floats(model: PVSE, m: int, n: int, d: int) -> int: "The K x K cosines, a masked copy, and the masks."; return 3 * m * n
