"help(cmr.IMRAM) can be read: every parameter with its comment, and not the methods that every network has."

import inspect
import pydoc

import pytest

import cmr


@pytest.mark.parametrize("name", sorted({*cmr.MODEL_HOMES, "Matcher"}))
def test_short_and_whole(name):
    cls = getattr(cmr, name)
    text = pydoc.plain(pydoc.render_doc(cls)).splitlines()
    assert len(text) < 150 and not any("register_forward_hook" in line for line in text)
    for parameter in inspect.signature(cls).parameters if name != "Matcher" else ():
        told = [line for line in text if line.strip(" |").startswith((f"{parameter}: ", f"{parameter} = "))]
        assert told and told[0].rsplit(": ", 1)[-1].strip(), f"{name}: {parameter} has no comment"


def test_tab_completion_has_everything():
    model = cmr.create_model("vse", region_dim=4, vocab_size=9, embed_dim=4, word_dim=4)
    assert {"eval", "to", "encode", "push_to_hub", "image_encoder", "state_dict", "__init__"} <= set(dir(model))


def test_a_class_without_source_has_its_own_docstring():
    space: dict = {}
    exec("from cmr.matcher import VSE\nclass Odd(VSE):\n    'No source.'\n    def __init__(self, x): pass\n", space)  # noqa: S102
    assert space["Odd"].__doc__ == "No source."
