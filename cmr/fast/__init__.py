"""The same scores sooner: plans, the sparse backward pass, tiles. Importing it makes the plans of SCAN, IMRAM and CAMP known."""

from cmr.fast.sparse import AnyModel, Plan, Side, pair_scores, plan, scores_of, training_scores  # first: the others register with `plan`

from cmr.fast.camp_engine import MessagePassing  # isort: skip
from cmr.fast.engine import Recurrence, Recurrences  # isort: skip
from cmr.fast.scoring import encode_all, floats_per_pair, floats_per_tile, score_all, tile_shape  # isort: skip

__all__ = ["AnyModel", "MessagePassing", "Plan", "Recurrence", "Recurrences", "Side", "encode_all", "floats_per_pair", "floats_per_tile",
           "pair_scores", "plan", "score_all", "scores_of", "tile_shape", "training_scores"]
