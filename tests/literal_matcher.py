"""VSE's score, read literally: one image, one caption, one number at a time, float64, plain Python."""

import math

import literal_encoders as encoders


def vse(model, features, ids):
    "Cosine of the mean projected region with the averaged last states (Faghri et al. 2018, over regions)."
    v = encoders.mean(encoders.regions(model.image_encoder, features))
    _, t = encoders.words(model.text_encoder, ids)
    return sum(a * b for a, b in zip(v, t)) / math.sqrt(sum(a * a for a in v) * sum(b * b for b in t))
