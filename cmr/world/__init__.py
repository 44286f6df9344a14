"""The built-in world: drawn scenes, what is true of them, and the small detector that cuts them into regions."""

from cmr.world.measures import at_r, blind, plausibility, right_images, truth_report, winoground
from cmr.world.regions import Detector, encode_pictures, fewer_scenes, load_detector, make_scenes, name_regions
from cmr.world.scenes import (Caption, Entry, Meaning, Scene, Thing, ceiling, draw, is_true, load_entries, make_split, save_entries,
                              sheet, truth, twin_accuracy, world_report)

__all__ = ["Caption", "Detector", "Entry", "Meaning", "Scene", "Thing", "at_r", "blind", "ceiling", "draw", "encode_pictures",
           "fewer_scenes", "is_true", "load_detector", "load_entries", "make_scenes", "make_split", "name_regions",
           "plausibility", "right_images", "save_entries", "sheet", "truth", "truth_report", "twin_accuracy", "winoground",
           "world_report"]
