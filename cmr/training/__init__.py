"""Training: recipes, the loop, checkpoints, several processes, and several models by one budget."""

from cmr.training.checkpoints import (FREE, Run, Standing, check_same, read_checkpoint, reading_ahead, restore, standardise_from,
    write_checkpoint)
from cmr.training.distributed import (all_gather, all_reduce_gradients, all_reduce_max, explain_lost_process, gather_fragments,
    joint_scores, make_accelerator, rank_and_world_size)
from cmr.training.loop import COLUMNS, batch_scores, chance, curves, evaluate, observe, observed_in, train, train_step
from cmr.training.recipes import (RECIPES, Recipe, build, change, for_model, learning_rate, loss_for, model_arguments, read_recipe, resolve,
    write_recipe)

__all__ = ["COLUMNS", "FREE", "RECIPES", "Recipe", "Run", "Standing", "all_gather", "all_reduce_gradients", "all_reduce_max",
           "batch_scores", "build", "chance", "change", "check_same", "curves", "evaluate", "explain_lost_process", "for_model",
           "gather_fragments", "joint_scores", "learning_rate", "loss_for", "make_accelerator", "model_arguments", "observe",
           "observed_in", "rank_and_world_size", "read_checkpoint", "read_recipe", "reading_ahead", "resolve", "restore",
           "standardise_from", "train", "train_step", "write_checkpoint", "write_recipe"]
