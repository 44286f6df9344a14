"""Captions and region features: vocabulary, splits, batches, and what others publish."""

from cmr.data.captions import Captions, gather_captions
from cmr.data.datasets import (Batch, CaptionPairs, ImageCaptions, Rows, batches, check_vocabulary, collate, drawn_pictures,
                               feature_digest, link_captions, open_split, pad, read_captions, split_name, splits, write_split)
from cmr.data.importers import Wanted, convert, import_captions, read_karpathy
from cmr.data.vocabulary import END, MARKS, PAD, START, UNK, Vocabulary, tokenize, unknown_share

__all__ = ["END", "MARKS", "PAD", "START", "UNK", "Batch", "CaptionPairs", "Captions", "ImageCaptions", "Rows", "Vocabulary", "Wanted",
           "batches", "check_vocabulary", "collate", "convert", "drawn_pictures", "feature_digest", "gather_captions", "import_captions",
           "link_captions", "open_split", "pad", "read_captions", "read_karpathy", "split_name", "splits", "tokenize",
           "unknown_share", "write_split"]
