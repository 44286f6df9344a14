"Regions: windows, network, labels, suppression, encoding, weights; each against something literal or worked by hand."

import copy
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny import digests

from cmr.data import open_split
from cmr.world import regions as R
from cmr.world.scenes import SIZE, Scene, Thing, draw, load_entries, make_split

RING = Thing("ring", "red", "large", "plain", x=48, y=66, radius=16)
DIAMOND = Thing("diamond", "blue", "small", "striped", x=96, y=60, radius=10)
EXAMPLE = Scene((RING, DIAMOND), noise=1)


@pytest.fixture(scope="module")
def grid(): return R.grid_boxes()


@pytest.fixture(scope="module")
def detector(): return R.load_detector()


@pytest.fixture(scope="module")
def world():
    entries = make_split("dev", 12, progress=False)
    return entries, np.stack([draw(e.scene) for e in entries])


def level_of(window):
    "Level, row and column of a window number, counted one by one."
    for level, across in zip(R.LEVELS, (27, 16, 11)):
        if window < across ** 2: return level, *divmod(window, across)
        window -= across ** 2
    raise AssertionError("no such window")


def iou(a, b):
    "Intersection over union of two boxes, number by number."
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def suppress(boxes, scores, count, threshold):
    "Non-maximum suppression as one would say it."
    left, kept = list(range(len(boxes))), []
    while left and len(kept) < count:
        top = max(left, key=lambda w: scores[w])
        kept.append(top)
        left = [w for w in left if w != top and iou(boxes[top], boxes[w]) <= threshold]
    return kept


# --- windows

def test_the_grid_is_numbered_level_by_level_row_by_row(grid):
    assert grid.shape == (27 ** 2 + 16 ** 2 + 11 ** 2, 4) and [R.windows_across(level) for level in R.LEVELS] == [27, 16, 11]
    for window in (0, 1, 28, 728, 729, 730, 745, 984, 985, 1105):
        level, row, column = level_of(window)
        x, y, side = column * 4 * level, row * 4 * level, 24 * level
        assert grid[window].tolist() == [x, y, x + side, y + side]
    assert grid.min() == 0 and grid.max() <= SIZE


def test_the_network_gives_one_answer_for_each_window(grid, detector):
    x = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        features, logits = detector.slide(x)
        sides = [detector(level)[0].shape[-2:] for level in R.pyramid(x)]
    assert features.shape == (2, len(grid), 64) and logits.shape == (2, len(grid))
    assert sides == [(R.windows_across(level),) * 2 for level in R.LEVELS]


def test_the_dense_pass_is_the_crops_one_by_one(detector):
    x = R.as_input(draw(EXAMPLE)[None])
    windows = torch.tensor([0, 345, 728, 729, 862, 984, 985, 1040, 1105])
    with torch.no_grad():
        features, logits = detector.slide(x)
        for w in windows.tolist():
            level, row, column = level_of(w)
            side = int(SIZE / level)
            shrunk = x if level == 1 else torch.nn.functional.interpolate(x, size=side, mode="area")
            crop = shrunk[:, :, 4 * row:4 * row + 24, 4 * column:4 * column + 24]
            hidden, answers = detector(crop)
            assert torch.equal(R.cut_windows(x[0], torch.tensor([w]))[0], crop[0])
            assert torch.allclose(features[0, w], hidden.flatten(), atol=1e-4)
            assert torch.allclose(logits[0, w], answers["object"].flatten(), atol=1e-4)
    assert torch.equal(R.cut_windows(x[0], windows[[3, 0]]), torch.cat([R.cut_windows(x[0], windows[[k]]) for k in (3, 0)]))


@pytest.mark.parametrize("window", [0, 28, 400, 728, 729, 862, 984, 985, 1045, 1105])
def test_a_window_sees_its_box_and_nothing_else(grid, detector, window):
    "Boxes of the middle level are up to half a pixel off, and shrinking averages over whole pixels: 2 pixels of tolerance there."
    torch.manual_seed(window)
    slack = 2 if level_of(window)[0] == 1.5 else 0
    x1, y1, x2, y2 = grid[window].int().tolist()
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[max(y1 - slack, 0):y2 + slack, max(x1 - slack, 0):x2 + slack] = False
    x = torch.rand(1, 3, SIZE, SIZE)
    elsewhere, corner = x.clone(), x.clone()
    elsewhere[:, :, outside] = torch.rand(3, int(outside.sum()))
    corner[:, :, y1:y1 + 4, x1:x1 + 4] = 1 - corner[:, :, y1:y1 + 4, x1:x1 + 4]
    exact = copy.deepcopy(detector).double()
    with torch.no_grad(): before, apart, inside = (exact.slide(p.double())[0][0, window] for p in (x, elsewhere, corner))
    assert torch.allclose(before, apart, atol=1e-10)
    assert (before - inside).abs().max() > 1e-4


# --- boxes and labels

def test_iou_by_hand(grid):
    row = torch.tensor([[0., 0., 10., 10.], [4., 0., 14., 10.], [8., 0., 18., 10.], [20., 20., 30., 30.]])
    assert torch.allclose(R.box_iou(row, row)[0], torch.tensor([1, 3 / 7, 1 / 9, 0]))
    some = grid[::111]
    literal = torch.tensor([[iou(a, b) for b in row.tolist()] for a in some.tolist()])
    assert torch.allclose(R.box_iou(some, row), literal) and torch.allclose(R.box_iou(row, some), literal.T)


def test_labels_by_hand(grid):
    assert torch.allclose(R.thing_boxes(EXAMPLE), torch.tensor([[32., 50., 64., 82.], [89.4, 50., 102.6, 70.]]))
    ring, diamond = 729 + 8 * 16 + 5, 12 * 27 + 21
    quality = R.frame_quality(EXAMPLE, grid)
    assert quality.shape == (1106, 2) and quality.min() >= 0 and quality.max() <= 1
    assert quality[ring, 0].item() == pytest.approx(36 / 36.8) and quality[diamond, 1].item() == pytest.approx(23 / 24)
    assert quality[diamond + 1, 1].item() == pytest.approx((1 - 4 / 11.5) * 23 / 24)
    best, good = R.label_windows(EXAMPLE, grid)
    assert best[[ring, diamond]].tolist() == [0, 1] and good.argmax() == ring and torch.equal(good, quality.amax(1))


def test_crops_carry_the_names_of_what_they_frame(world, grid):
    entries, pictures = world
    crops, labels, quality = R.sample_crops(entries, pictures, each=10, seed=4)
    assert crops.shape == (120, 3, 24, 24) and quality.shape == (120,)
    assert {k: len(v) for k, v in labels.items()} == dict.fromkeys(R.NAMES, 120)
    again = R.sample_crops(entries[:2], pictures[:2], each=10, seed=4)
    assert torch.equal(again[0], crops[:20]) and torch.equal(again[2], quality[:20])
    assert not torch.equal(R.sample_crops(entries[:2], pictures[:2], each=10, seed=5)[0], crops[:20])
    for n, entry in enumerate(entries):         # every label is that of a thing of its picture, with all four names
        things = {tuple(R.NAMES[k].index(getattr(t, k)) for k in R.NAMES) for t in entry.scene.things}
        assert {tuple(labels[k][i].item() for k in R.NAMES) for i in range(10 * n, 10 * n + 10)} <= things


def test_half_of_the_picked_windows_frame_something():
    quality = torch.zeros(1106)
    quality[100:120], quality[500:560] = 0.9, 0.3
    pick = R.pick_windows(quality, 20, torch.Generator().manual_seed(0))
    assert len(pick.unique()) == 20 and (quality[pick[:10]] == .9).all()
    assert (quality[pick[10:]] < .55).all() and (quality[pick[10:]] == .3).any()


# --- training

def test_loss_by_hand():
    answers = {k: torch.zeros(4, n, 1, 1, requires_grad=True) for k, n in [("object", 1), *((k, len(v)) for k, v in R.NAMES.items())]}
    labels, quality = {k: torch.zeros(4, dtype=torch.long) for k in R.NAMES}, torch.tensor([0.9, 0.1, 0.6, 0.])
    loss = R.detector_loss(answers, labels, quality)
    assert loss.item() == pytest.approx(np.log(2 * 12 * 8 * 2 * 3), rel=1e-5)
    loss.backward()
    for key in R.NAMES: assert (answers[key].grad.flatten(1).abs().sum(1) > 0).tolist() == [True, False, True, False]
    assert R.detector_loss(answers, labels, torch.zeros(4)).item() == pytest.approx(np.log(2), rel=1e-5)


def test_a_few_steps_lower_the_loss(world):
    entries, pictures = world
    crops, labels, quality = R.sample_crops(entries, pictures, seed=9)
    torch.manual_seed(0)

    @torch.no_grad()
    def loss(model): return R.detector_loss(model(crops)[1], labels, quality).item()

    trained = R.train_detector(entries, pictures, epochs=6, batch=48, progress=False)
    assert not trained.training and loss(trained) < loss(R.Detector())
    again = R.train_detector(entries, pictures, epochs=6, batch=48, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), again.state_dict().values()))


def test_training_at_the_door(world):
    entries, pictures = world
    with pytest.raises(ValueError, match="48 crops make no batch of 128"): R.train_detector(entries[:2], pictures[:2], progress=False)
    with pytest.raises(ValueError, match="12 entries but 11 pictures"): R.train_detector(entries, pictures[:11], progress=False)


# --- weights

def test_weights_there_and_back(tmp_path):
    torch.manual_seed(1)
    for model in (R.Detector(), R.Detector(width=8)):
        R.save_detector(model, tmp_path / "mine.safetensors")
        back = R.load_detector(tmp_path / "mine.safetensors")
        assert back.width == model.width and not back.training
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values()))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_weights_that_are_none(tmp_path):
    path = tmp_path / "mine.safetensors"
    with pytest.raises(FileNotFoundError, match="mine.safetensors"): R.load_detector(path)
    for size in (0, 5, 1000, R.WEIGHTS.stat().st_size - 1):
        path.write_bytes(R.WEIGHTS.read_bytes()[:size])
        with pytest.raises(ValueError, match="mine.safetensors is (empty|damaged|a binary file|[^:]*cut short)"): R.load_detector(path)
    state = R.load_detector().state_dict()
    short = {k: v for k, v in state.items() if k != "heads.size.bias"}
    for foreign in ({"gru.weight": torch.zeros(3)}, short, {"trunk.6.weight": torch.zeros(())}):
        safetensors.torch.save_file(foreign, path)
        with pytest.raises(ValueError, match="mine.safetensors is not a detector's weights, or only a part.*save_detector"): R.load_detector(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    R.save_detector(R.Detector(8), path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"): R.save_detector(R.Detector(8), path)
    assert path.read_bytes() == before


def test_the_shipped_weights_are_small_and_know_the_names(detector):
    assert R.WEIGHTS.stat().st_size < 1_000_000
    entries = make_split("test", 30, progress=False)
    crops, labels, quality = R.sample_crops(entries, np.stack([draw(e.scene) for e in entries]), seed=2)
    with torch.no_grad(): answers = detector(crops)[1]
    for key, names in labels.items(): assert (answers[key].flatten(1).argmax(1) == names)[quality > 0.5].float().mean() > 0.8


# --- suppression

def test_suppression_is_the_literal_one(grid):
    torch.manual_seed(3)
    overlaps, scores = R.box_iou(grid, grid), torch.randn(3, len(grid))
    kept = R.keep_best(scores, overlaps)
    assert kept.tolist() == [suppress(grid.tolist(), one.tolist(), 36, 0.4) for one in scores]
    assert R.keep_best(scores[1], overlaps).tolist() == kept[1].tolist()
    slowly = [suppress(grid.tolist(), one.tolist(), 10, 0.2) for one in scores]
    assert R.keep_best(scores, overlaps, count=10, threshold=0.2).tolist() == slowly


def test_what_is_struck_out_strikes_no_more():
    row = torch.tensor([[0., 0., 10., 10.], [4., 0., 14., 10.], [8., 0., 18., 10.], [30., 0., 40., 10.]])
    overlaps, scores = R.box_iou(row, row), torch.tensor([.9, .8, .7, .6])
    given = scores.clone()
    assert R.keep_best(scores, overlaps, 3).tolist() == [0, 2, 3]
    for threshold in (0.5, 1.): assert R.keep_best(scores, overlaps, 4, threshold).tolist() == [0, 1, 2, 3]
    assert R.keep_best(torch.zeros(4), overlaps, 3).tolist() == [0, 2, 3] and torch.equal(scores, given)     # ties: the first one


def test_suppression_at_the_door():
    overlaps = torch.ones(5, 5)
    with pytest.raises(ValueError, match="only 1 of 36 windows survive"): R.keep_best(torch.rand(2, 5), overlaps)
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match="NaN or infinity"): R.keep_best(torch.tensor([1., bad, 0, 0, 0]), overlaps, 1)


# --- encoding

def test_geometry_by_hand():
    assert R.box_geometry(torch.tensor([[0., .25, .5, 1.]])).tolist() == [[0, .25, .5, 1, .25, .625, .5, .75]]


def test_encoding(world, detector):
    pictures = world[1]
    features, boxes = R.encode_pictures(pictures, detector, progress=False)
    assert features.shape == (12, 36, 72) and boxes.shape == (12, 36, 4) and features.dtype == boxes.dtype == np.float32
    assert np.isfinite(features).all() and boxes.min() >= 0 and boxes.max() <= 1 and (boxes[..., 2:] > boxes[..., :2]).all()
    assert np.array_equal(features[..., 64:], R.box_geometry(torch.tensor(boxes)).numpy())
    again, same = R.encode_pictures(pictures, progress=False)
    assert np.array_equal(features, again) and np.array_equal(boxes, same)
    for i, kept in enumerate(boxes): assert (R.box_iou(*2 * (torch.tensor(kept),)) - torch.eye(36)).max() <= 0.4 + 1e-6, i
    reading = R.encode_pictures(pictures[::-1], detector, batch=5, progress=False)[0][::-1]
    assert np.allclose(features, reading, atol=1e-4)                       # neither order nor batch matters


def test_encoding_finds_what_is_there(detector):
    features, boxes = R.encode_pictures(draw(EXAMPLE)[None], detector, progress=False)
    quality = R.frame_quality(EXAMPLE, torch.tensor(boxes[0]) * SIZE)
    assert (quality.amax(0) > 0.55).all()
    said = R.name_regions(features[0], detector)
    for thing, k in zip(EXAMPLE.things, quality.argmax(0).tolist()):
        assert (said["colour"][k], said["shape"][k]) == (thing.colour, thing.shape) and said["object"][k] > 0.5
    assert (np.diff(said["object"]) <= 1e-6).all()


def test_names_of_saved_features_are_the_heads_answers(world, detector):
    features, boxes = R.encode_pictures(world[1][:2], detector, progress=False)
    said = R.name_regions(features, detector)
    grid = (R.grid_boxes() / SIZE).numpy()
    windows = torch.tensor([np.abs(grid - box).sum(1).argmin() for box in boxes[1]])
    with torch.no_grad(): answers = detector(R.cut_windows(R.as_input(world[1][1:2])[0], windows))[1]
    assert np.allclose(said["object"][1], answers["object"].flatten().sigmoid(), atol=1e-4)
    for key, names in R.NAMES.items():
        assert said[key].shape == (2, 36) and said[key][1].tolist() == [names[k] for k in answers[key].flatten(1).argmax(1)]


def test_pictures_at_the_door(world, tmp_path):
    pictures = world[1]
    for wrong in (pictures[0], pictures / 255, pictures[:, :64], pictures[..., :1], pictures.astype(np.int64)):
        with pytest.raises(ValueError, match=r"uint8 \(B, 128, 128, 3\)"): R.encode_pictures(wrong, progress=False)
    with pytest.raises(ValueError, match="no pictures"): R.encode_pictures(pictures[:0])
    np.save(tmp_path / "pictures.npy", pictures[:2])                        # memory mapped and read only, as data folders have them
    mapped = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    assert np.array_equal(R.encode_pictures(mapped, progress=False)[0], R.encode_pictures(pictures[:2], progress=False)[0])


@pytest.mark.parametrize("picture", [np.zeros, np.ones, None])
def test_a_picture_of_nothing_has_36_regions_too(picture):
    empty = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3)) if picture is None else picture((1, SIZE, SIZE, 3)) * 255
    assert R.encode_pictures(empty.astype(np.uint8), progress=False)[0].shape == (1, 36, 72)


# --- the world in a folder

COUNTS = {"train": 6, "dev": 6}


def told(folder, split):
    open_split(folder, split)
    return load_entries(folder / f"{split}_scenes.json")


def test_a_folder_says_which_world_it_is(tmp_path):
    R.make_scenes(tmp_path, 1, COUNTS, progress=False)
    about = json.loads((tmp_path / "world.json").read_text())
    assert (about["format"], about["seed"], about["counts"], sorted(about["files"])) == (1, 1, COUNTS, ["dev", "train"])
    assert sorted(about["files"]["dev"]) == ["dev.h5", "dev_pictures.npy", "dev_scenes.json"]
    assert told(tmp_path, "dev") == make_split("dev", 6, 1, progress=False)
    before = digests(tmp_path)
    R.make_scenes(tmp_path, 1, COUNTS, progress=False)            # the same again
    assert digests(tmp_path) == before
    (tmp_path / "world.json").unlink()                            # an older folder
    told(tmp_path, "train")


def test_a_redraw_that_was_stopped_is_no_mixture(tmp_path, monkeypatch):
    R.make_scenes(tmp_path, 1, COUNTS, progress=False)
    real = R.write_scenes
    def stopped(folder, split, *rest):
        if split == "dev": raise KeyboardInterrupt
        return real(folder, split, *rest)
    monkeypatch.setattr(R, "write_scenes", stopped)
    with pytest.raises(KeyboardInterrupt): R.make_scenes(tmp_path, 2, COUNTS, progress=False)
    assert told(tmp_path, "train") == make_split("train", 6, 2, progress=False)
    for act in (lambda: open_split(tmp_path, "dev"), lambda: load_entries(tmp_path / "dev_scenes.json")):
        with pytest.raises(ValueError, match=r"dev.* belongs to no finished split .*world of seed 2.*cmr data scenes --out .* --seed 2"): act()
    monkeypatch.setattr(R, "write_scenes", real)
    R.make_scenes(tmp_path, 2, COUNTS, progress=False)
    assert told(tmp_path, "dev") == make_split("dev", 6, 2, progress=False)


@pytest.mark.parametrize("until", ["train_pictures.npy", "train_scenes.json", "train.h5"])
def test_a_split_that_was_stopped_between_its_files(tmp_path, monkeypatch, until):
    R.make_scenes(tmp_path, 1, COUNTS, progress=False)
    def stop(path):
        if str(path).endswith(until): raise KeyboardInterrupt
    def stopping(write, place):
        def wrapped(*given):
            write(*given)
            stop(given[place])
        return wrapped
    for name, place in (("write_npy", 0), ("save_entries", 1), ("write_split", 0)):
        monkeypatch.setattr(R, name, stopping(getattr(R, name), place))
    with pytest.raises(KeyboardInterrupt): R.make_scenes(tmp_path, 2, COUNTS, progress=False)
    for split in COUNTS:
        with pytest.raises(ValueError, match="belongs to no finished split"): open_split(tmp_path, split)


def test_a_file_of_another_world(tmp_path):
    for seed in (1, 2): R.make_scenes(tmp_path / str(seed), seed, COUNTS, progress=False)
    for name in ("dev.h5", "dev_scenes.json"):
        (tmp_path / "1" / name).write_bytes((tmp_path / "2" / name).read_bytes())
        with pytest.raises(ValueError, match=rf"{name} is not the file that world\.json beside it names .a world of seed 1."): told(tmp_path / "1", "dev")
        R.make_scenes(tmp_path / "1", 1, COUNTS, progress=False)
    (tmp_path / "1" / "world.json").unlink()
    (tmp_path / "1" / "dev_scenes.json").write_bytes((tmp_path / "2" / "dev_scenes.json").read_bytes())
    with pytest.raises(ValueError, match=r"dev_scenes\.json and dev\.h5 beside it are of different splits or worlds"): told(tmp_path / "1", "dev")


@pytest.mark.parametrize("content", ["", "[]", '{"seed": "1", "counts": {}}', '{"seed": 1}', '{"format": 2, "seed": 1, "counts": {}}', "{" * 5000])
def test_a_manifest_that_is_none(tmp_path, content):
    R.make_scenes(tmp_path, 1, {"dev": 6}, progress=False)
    (tmp_path / "world.json").write_text(content)
    with pytest.raises(ValueError, match=r"world\.json") as problem: open_split(tmp_path, "dev")
    assert "cmr data scenes" in str(problem.value)
    R.make_scenes(tmp_path, 1, {"dev": 6}, progress=False)        # the remedy
    told(tmp_path, "dev")


def test_fewer_scenes_of_a_drawn_and_of_an_older_folder(tmp_path):
    R.make_scenes(tmp_path / "a", 3, {"dev": 12}, progress=False)
    R.fewer_scenes(tmp_path / "a", tmp_path / "b", {"dev": 6})
    assert json.loads((tmp_path / "b" / "world.json").read_text())["seed"] == 3
    assert told(tmp_path / "b", "dev") == make_split("dev", 6, 3, progress=False)
    (tmp_path / "a" / "world.json").unlink()
    R.fewer_scenes(tmp_path / "a", tmp_path / "b", {"dev": 3})
    assert not (tmp_path / "b" / "world.json").exists()
    assert len(told(tmp_path / "b", "dev")) == 3


def test_a_drawing_that_was_stopped_is_completed_where_no_data_are_given(tmp_path, monkeypatch):
    from cmr.cli import data as command
    asked = []
    monkeypatch.setattr(command, "SCENES", tmp_path)
    monkeypatch.setattr(command, "COUNTS", COUNTS)
    monkeypatch.setattr(command, "draw_scenes", lambda *given: asked.append(given))
    command.pick_data(None)
    R.make_scenes(tmp_path, 5, COUNTS, progress=False)
    assert command.pick_data(None) == tmp_path
    about = json.loads((tmp_path / "world.json").read_text())
    del about["files"]["dev"]
    (tmp_path / "world.json").write_text(json.dumps(about))
    command.pick_data(None)
    assert asked == [(tmp_path, 0, COUNTS), (tmp_path, 5, COUNTS)]
