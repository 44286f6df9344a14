"""What a model's class is besides its equations: how it comes and goes, and when two classes are one."""

from __future__ import annotations

import dis
import importlib
import inspect

from huggingface_hub import PyTorchModelHubMixin

from .data.vocabulary import Vocabulary


class Portable(PyTorchModelHubMixin):
    "How a model comes and goes. The work is done elsewhere: these are the only imports that run up."
    vocabulary: Vocabulary | None = None # the words it was trained with, once it was
    extractor: object = None             # who made the features that it learned from
    config = property(lambda self: dict(self._hub_mixin_config or {}), doc="The arguments it was made with.")
    @classmethod
    def from_pretrained(cls, where, **options):
        "A model from a folder, or from the hub by its owner/name (`cmr.saving.from_pretrained`)."
        return importlib.import_module("cmr.saving").from_pretrained(cls, where, **options)
    _from_pretrained = classmethod(lambda c, **o: importlib.import_module("cmr.saving").from_mixin(c, **o))
    @classmethod
    def from_released(cls, *weights, **options):
        "A model with its authors' weights (`cmr.shelf.released.from_released`)."
        return importlib.import_module("cmr.shelf.released").from_released(cls, *weights, **options)
    def encode(self, what):
        "Fragments of a sentence, a picture or its file, or of several (`cmr.search.explain.encode`)."
        return importlib.import_module("cmr.search.explain").encode(self, what)
    def generate_model_card(self, **how): return importlib.import_module("cmr.saving").hub_card(self, **how)
    def _save_pretrained(self, folder): importlib.import_module("cmr.saving").write_model(self, folder)


def instructions(function) -> list:
    "What a function reads, stores and combines, in order; how it calls is left out: compilers vary that."
    steps = [(step.opname.replace("METHOD", "ATTR"), step.argval) for step in dis.get_instructions(function)]
    return [(name, getattr(value, "co_name", value)) for name, value in steps
            if name.startswith(("LOAD_", "STORE_", "BINARY_", "COMPARE_"))]


def same_code(a: type, b: type) -> bool:
    "Whether two classes have the same methods, to the instruction: one class, whose cell was run again."
    def methods(cls): return {name: instructions(f) for name, f in vars(cls).items() if inspect.isfunction(f)}
    return methods(a) == methods(b)
