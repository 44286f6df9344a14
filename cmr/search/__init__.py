"""Galleries that answer one query: a shortlist by cheap vectors, ranked by the model."""

from cmr.search.explain import Found, Hit, Search
from cmr.search.gallery import (Gallery, Kept, Shortlist, ask, ask_with_image, fingerprint, fit_maps, image_row, learn_maps,
                                open_gallery, pooled, recall_kept, show_hits, summary_vectors, write_gallery)

__all__ = ["Found", "Gallery", "Hit", "Kept", "Search", "Shortlist", "ask", "ask_with_image", "fingerprint", "fit_maps", "image_row",
           "learn_maps", "open_gallery", "pooled", "recall_kept", "show_hits", "summary_vectors", "write_gallery"]
