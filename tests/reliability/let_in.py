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
}
