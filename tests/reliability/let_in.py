"""Damage that is let in and changes the result: each with the reason why that is right, or cannot be otherwise."""

FINITE = "any finite number is a feature: nobody can tell it from the right one (`cmr check` reports empty and constant features)"
OTHER_TYPE = "the same numbers in another type, as far as the type holds them"
ORDER = "the order of rows is the file's own: what stands in a row is that row's image"
TEXT = "any text of at most 10,000 characters is a caption; what steers a terminal is taken out when it is printed"
FEWER = "cut at the end of a line, with as many captions left as make an equal number for each image"
NAME = "any text is an image's name; it never becomes a path, and what steers a terminal is taken out when it is printed"
OPTIONAL = "this part of a split may be left out"
MASK = "a mask is believed: it says which regions are real"
OTHER_SPLITS = "a folder without this split is a folder with the others; those are converted"
ROW = "a table with other rows is another table; the command says how many captions of how many images it found"
UNIT = "any numbers from 0 to 1 are boxes"

LET_IN: dict[tuple[str, str, str], str] = {  # (kind of file, damage, command), with * for anything
    ("npy features", "bit flipped*", "*"): FINITE,
    ("npy features", "constant", "*"): FINITE,
    ("npy features", "all one value, huge", "*"): FINITE,
    ("npy features", "negative", "*"): FINITE,
    ("npy features", "float16", "*"): OTHER_TYPE,
    ("npy features", "whole numbers", "*"): OTHER_TYPE,
    ("npy features", "bytes as numbers", "*"): OTHER_TYPE,
    ("npy features", "rows swapped", "*"): ORDER,
    ("npy features", "a narrower width", "data convert"): "features of any width are converted",
    ("npy features", "missing", "data convert"): OTHER_SPLITS,
    ("npy mask", "rows swapped", "*"): MASK,
    ("npy mask", "constant", "*"): MASK,
    ("npy mask", "missing", "*"): OPTIONAL,
    ("npy boxes", "missing", "*"): OPTIONAL,
    ("npy boxes", "float16", "*"): OTHER_TYPE,
    ("npy boxes", "whole numbers", "*"): OTHER_TYPE,
    ("npy boxes", "bytes as numbers", "*"): OTHER_TYPE,
    ("npy boxes", "constant", "*"): UNIT,
    ("npy boxes", "all zero", "*"): UNIT,
    ("captions, a line each", "bit flipped*", "*"): TEXT,
    ("captions, a line each", "two lines swapped", "*"): TEXT,
    ("captions, a line each", "a line twice", "*"): TEXT,
    ("captions, a line each", "terminal escapes", "*"): TEXT,
    ("captions, a line each", "a line separator", "*"): TEXT,
    ("captions, a line each", "* as name", "*"): TEXT,
    ("captions, a line each", "other letters", "*"): TEXT,
    ("captions, a line each", "cut to 50%", "*"): FEWER,
    ("ids, a line each", "missing", "search"): OPTIONAL + ": images are called by their rows then",
    ("ids, a line each", "two lines swapped", "*"): NAME,
    ("ids, a line each", "terminal escapes", "*"): NAME,
    ("ids, a line each", "a line separator", "*"): NAME,
    ("ids, a line each", "* as name", "*"): NAME,
    ("ids, a line each", "other letters", "*"): NAME,
    ("ids, a line each", "bit flipped*", "*"): NAME,
    ("HDF5", "bit flipped*", "*"): FINITE,
    ("HDF5", "features: float16", "*"): OTHER_TYPE,
    ("HDF5", "features: whole numbers", "*"): OTHER_TYPE,
    ("HDF5", "features: bytes as numbers", "*"): OTHER_TYPE,
    ("HDF5", "features: rows swapped", "*"): ORDER,
    ("HDF5", "features: constant", "*"): FINITE,
    ("HDF5", "features: negative", "*"): FINITE,
    ("HDF5", "features: all one value, huge", "*"): FINITE,
    ("HDF5", "captions: escapes", "*"): TEXT,
    ("HDF5", "captions: another", "*"): TEXT,
    ("HDF5", "captions: ../victim", "*"): TEXT,
    ("HDF5", "captions: one text twice", "*"): TEXT,
    ("HDF5", "ids: missing", "*"): OPTIONAL,
    ("HDF5", "ids: escapes", "*"): NAME,
    ("HDF5", "ids: another", "*"): NAME,
    ("HDF5", "ids: ../victim", "*"): NAME,
    ("HDF5", "image_of_caption: rows swapped", "*"): "which image a caption belongs to is what the file says",
    ("HDF5", "mask: missing", "*"): OPTIONAL,
    ("HDF5", "mask: rows swapped", "*"): MASK,
    ("HDF5", "mask: constant", "*"): MASK,
    ("HDF5", "boxes: missing", "*"): OPTIONAL,
    ("HDF5", "boxes: float16", "*"): OTHER_TYPE,
    ("HDF5", "boxes: whole numbers", "*"): OTHER_TYPE,
    ("HDF5", "boxes: bytes as numbers", "*"): OTHER_TYPE,
    ("HDF5", "boxes: constant", "*"): UNIT,
    ("HDF5", "boxes: all zero", "*"): UNIT,
    ("scenes", "missing", "evaluate"): "scenes are no part of a split: without them what only the built-in world can tell is left out",
    ("state of a training", "standing.rows.*", "train"): "numbers of epochs that are past, in range: nobody can tell them from the right ones",
    ("gallery", "*float16", "search"): OTHER_TYPE,
    ("Karpathy's json", "bit flipped*", "*"): TEXT,
    ("Karpathy's json", "images.0.sentences.0.raw*", "*"): TEXT,
    ("npy features", "all zero", "*"): FINITE + "; said where zeros are not covered by a mask",
    ("HDF5", "features: all zero", "*"): FINITE,
    **{(f"captions as {name}", damage, "import captions"): TEXT for name in ("*.csv", "*.tsv", "*.token", "*.jsonl", "*.json")
       for damage in ("bit flipped*", "a line separator", "terminal escapes", "other letters", "* as name", "*caption*")},
    **{(f"captions as {name}", damage, "import captions"): ROW for name in ("*.csv", "*.tsv", "*.token", "*.jsonl")
       for damage in ("cut to*", "last line missing", "a line of blanks", "an empty line", "a line twice", "one line more")},
    ("Karpathy's json", "images.0 missing", "*"): "a document with an image less is another document",
}
