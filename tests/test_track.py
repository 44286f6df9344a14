"Callbacks hear of a training, and an unknown tracker is refused before anything is made."

import pytest
from typer.testing import CliRunner

from cmr.cli import app
from cmr.training import RECIPES, train
from cmr.training.loop import HOOKS
from cmr.training.recipes import change, for_model
from cmr.training.track import Callback, Tracking, check_trackers
from cmr.world.regions import make_scenes


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("track") / "world"
    make_scenes(folder, counts={"train": 40, "dev": 12, "test": 12}, progress=False)
    return folder


RECIPE = change(for_model(RECIPES["scenes"], "vse"), {"epochs": "2", "embed_dim": "8", "word_dim": "8", "batch_size": "16"})


class Log(Callback):
    def __init__(self): self.heard = []
    def on_start(self, run): self.heard.append(("start", run.at.step))
    def on_step(self, run, loss): self.heard.append(("step", run.at.step))
    def on_epoch(self, run, row): self.heard.append(("epoch", row["epoch"]))
    def on_end(self, run, why): self.heard.append(("end", why))


def test_steps_and_epochs_in_order_and_weights_as_without(world, tmp_path):
    log = Log()
    done = train(RECIPE, world, tmp_path / "with", device="cpu", progress=False, callbacks=[log])
    plain = train(RECIPE, world, tmp_path / "without", device="cpu", progress=False)
    assert [n for kind, n in log.heard if kind == "step"] == list(range(1, done["step"] + 1))
    assert log.heard[0] == ("start", 0) and log.heard[-1] == ("end", "all epochs done") and ("epoch", 2) in log.heard
    assert done["best"]["rsum"] == plain["best"]["rsum"]


def test_a_stopped_run_is_heard_and_goes_on(world, tmp_path):
    first, second = Log(), Log()
    train(RECIPE, world, tmp_path / "run", device="cpu", progress=False, max_steps=5, callbacks=first)  # one need not be put into a list
    train(RECIPE, world, tmp_path / "run", resume=True, device="cpu", progress=False, callbacks=[second])
    assert first.heard[-1][0] == "end" and "max_steps" in first.heard[-1][1] and second.heard[0] == ("start", 5)


def test_who_hears_of_nothing_is_refused(world, tmp_path):
    assert {name for name in vars(Callback) if name.startswith("on_")} == {*HOOKS}
    class Typo:
        def on_epohc(self, run, row): pass
    with pytest.raises(ValueError, match="on_epoch"): train(RECIPE, world, tmp_path / "run", callbacks=[Typo()])
    assert not (tmp_path / "run").exists()


def test_trackers(world, tmp_path):
    with pytest.raises(ValueError, match="tensorboard"): check_trackers(["paper"])
    said = CliRunner().invoke(app, ["train", "--data", str(world), "--track", "paper", "--out", str(tmp_path / "run")])
    assert said.exit_code == 2 and "no tracker 'paper'" in said.output and not (tmp_path / "run").exists()
    train(RECIPE, world, tmp_path / "tracked", device="cpu", progress=False, callbacks=[Tracking(["tensorboard"], every=1)])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    notes = EventAccumulator(str(tmp_path / "tracked/cmr")).Reload()
    assert len(notes.Scalars("epoch/rsum")) == 2 == len(notes.Images("retrieved"))
