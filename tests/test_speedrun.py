"""`cmr speedrun`: what it counts, and what it prints."""

from test_cli import call

from cmr.cli.speedrun import seconds_to


def test_seconds_are_added_up_to_the_first_epoch_that_reaches_the_target():
    rows = [{"rsum": 400.0, "seconds": 3.0}, {"rsum": 520.0, "seconds": 5.0}, {"rsum": 500.0, "seconds": 7.0}]
    assert [seconds_to(target, rows) for target in (100.0, 400.5, 520.0, 520.1)] == [3.0, 8.0, 8.0, None]


def test_an_entry_is_a_line_of_the_table_and_a_second_call_trains_nothing_again(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("speedrun", "mine", "--model", "vse", "--epochs", 2, "--data", world, "--set", "embed_dim=8", "--device", "cpu", "--seeds", "0,1")
    said = call(*words, "--target", 1)
    assert "no entry of the table, by its rules: --data, --target, --seeds" in said and "| mine |" not in said and "seed 1: dev R@sum" in said and (tmp_path / "runs/speedrun/mine/1/metrics.csv").is_file()
    before = (tmp_path / "runs/speedrun/mine/0/metrics.csv").read_text()  # with its seconds
    assert "0 of 2 seeds reach 600: this is no entry yet" in call(*words, "--target", 600)
    assert (tmp_path / "runs/speedrun/mine/0/metrics.csv").read_text() == before


def test_names_that_are_no_folder_and_seeds_that_are_none_are_refused(world):
    for words, said in ((("../up",), "is no name"), (("..",), "is no name"), (("",), "is no name"), (("a|b",), "is no name"), (("x", "--seeds", "0,b"), "whole numbers"), (("x", "--seeds", "1,1"), "twice")):
        assert said in call("speedrun", *words, "--data", world, code=2)


def test_an_entry_by_the_rules_has_every_column_of_the_table(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cmr.cli.speedrun.TARGET", 1.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/scenes").symlink_to(world)
    words = ("--model", "vse", "--epochs", 1, "--set", "embed_dim=8", "--device", "cpu", "--target", 1)
    alone, cut = call("speedrun", "mine", *words), call("speedrun", "cut", *words, "--set", "dev_images=3")
    assert "by its rules: dev_images" in cut and "| cut |" not in cut
    call("speedrun", "other", *words)
    (tmp_path / "runs/speedrun/other").rename(tmp_path / "runs/speedrun/reference")
    for said, ratio in ((alone, "?"), (call("speedrun", "mine", *words), None)):
        line, = (line for line in said.splitlines() if line.startswith("|"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 7 and cells[1] == "mine" and cells[6].startswith("`cmr") and (cells[4] == "?" if ratio else float(cells[4]) > 0)
    (tmp_path / "runs/speedrun/mine/0/machine.json").write_text('{"date": "2020-01-01", "processor": "an old one", "threads": 3}')
    said = call("speedrun", "mine", *words)
    assert "| 2020-01-01 | mine |" in said and "| an old one, 3 threads |" in said
    (tmp_path / "runs/speedrun/mine/0/machine.json").unlink()
    assert "no note of the machine at" in call("speedrun", "mine", *words, code=2)
