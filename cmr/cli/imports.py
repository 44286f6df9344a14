"""`cmr import`: captions, features and weights as others publish them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from cmr.cli.app import App, PathArgument, PathOption, app, typed

import_app = App(no_args_is_help=True, rich_markup_mode="rich", help="Take captions, features and weights as others publish them.")
app.add_typer(import_app, name="import")


class Family(str, Enum):
    "Models whose authors' weights can be read."
    scan = "scan"
    imram = "imram"
    camp = "camp"


@import_app.command("captions")
def import_captions_command(
    source: Annotated[Path, PathArgument(help="A file of captions, or a folder with {split}_caps.txt and {split}_ids.txt.")],
    out: Annotated[Path, PathArgument(help="Folder for {split}.h5; without features, for {split}_caps.txt and {split}_ids.txt.")],
    features: Annotated[Path | None, PathOption(help="Region features: an .npy array, HDF5 as `cmr features` writes it, a bottom-up tsv, "
                                                    "a folder of .npz archives, or one with {split}_feat.npy or {split}_ims.npy.")] = None,
    ids: Annotated[Path | None, PathOption(help="For one .npy: a text file that names the image of each row.")] = None,
    images: Annotated[Path | None, PathOption(help="Folder of the pictures: says how many have no caption, and which captions "
                                                  "have no picture.")] = None,
    split: Annotated[str | None, typer.Option(help="All of SOURCE belongs to this split: train, dev, test or testall.")] = None,
    per_image: Annotated[int | None, typer.Option(min=1, help="Keep the first so many captions of each image.")] = None,
    dev: Annotated[int | None, typer.Option(min=0, help="Images to draw for dev where SOURCE names no splits. "
                                              "Default: a tenth, at most 1,000.")] = None,
    test: Annotated[int | None, typer.Option(min=0, help="The same for test.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides the draw: the same seed gives the same splits. Default: 0.")] = None,
    drop_missing: Annotated[bool, typer.Option("--drop-missing", help="Leave out images that have no features, or no picture, "
                                               "instead of stopping.")] = False,
):
    """Make a data folder of captions in any form, with features in any form.

    Which form SOURCE has is found by its content: csv or tsv with the columns image and caption (or without a header), Kaggle's
    Flickr30k with |, Flickr's .token, COCO's captions, Karpathy's json, LAVIS' or BLIP's list, JSON lines. Splits come from it, or
    are drawn by image. Names match with or without folder and extension; without names, rows match by their order, if there are
    exactly as many as images. Nothing is written before all of it fits. Without features the captions are stored alone, and
    features can be added by importing that folder.

    \b
    Examples:
      cmr import captions captions.txt data/f8k --features photos.h5
      cmr import captions dataset_coco.json data/coco --features trainval.tsv --per-image 5
      cmr import captions captions_val2014.json data/coco --split dev --features npz
      cmr import captions results.csv data/f30k --images flickr30k_images
      cmr import captions mine.jsonl data/mine --features all.npy --ids names.txt --seed 1
    """
    from cmr.data import Wanted, import_captions
    wanted = Wanted(split, dev, test, seed, per_image, drop_missing)
    written = import_captions(source, out, features, ids, images, wanted, typer.echo)
    for path in written: typer.echo(f"wrote {path}")
    whole = any(path.suffix == ".h5" for path in written)
    typer.echo(f"Next: cmr check {typed(out)}" if whole else
               f"Next: add features with cmr import captions {typed(out)} {typed(f'{out}-features')} --features F")


def import_weights(
    file: Path, out: Path, family: str, vocabulary: Path | None, settings: dict[str, Any], # of the model; None where nothing was said
) -> None:
    "Read a checkpoint of its authors and write a folder of ours."
    from cmr.data import Vocabulary
    from cmr.saving import save, write_model
    from cmr.shelf.released import read_released
    if out.exists() and (not out.is_dir() or any(out.iterdir())): raise ValueError(f"{out} is there and not empty: name a new folder")
    model, said = read_released(file, family, **{key: value for key, value in settings.items() if value is not None})
    words = None if vocabulary is None else Vocabulary.load(vocabulary, marks=True, max_words=49 if family == "camp" else model.max_words)
    typer.echo(said)
    if words is None: write_model(model, out)
    else: save(model, words, out)
    typer.echo(f"wrote {out}")
    if words is None:
        typer.secho("Note: without --vocabulary the model can score features and tokens, but read no captions: its words are in the "
                    "json that its authors published", fg=typer.colors.YELLOW, err=True)
    else: typer.echo(f"Next: cmr evaluate {typed(out)} --data D")


@import_app.command("checkpoint")
def import_checkpoint_command(
    file: Annotated[Path, PathArgument(help="The authors' .pth.tar.")],
    out: Annotated[Path, PathArgument(help="Folder for config.json, model.safetensors and vocab.json; a new one.")],
    family: Annotated[Family, typer.Option(help="Whose weights they are.")],
    vocabulary: Annotated[Path | None, PathOption(help="The vocabulary published with them (json).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=100, help="K of IMRAM. Default: what the checkpoint says, else 3.")] = None,
    direction: Annotated[str | None, typer.Option(help="full, image or text (IMRAM); image or text (SCAN).")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, lse, max or sum (SCAN).")] = None,
    inverse_temperature: Annotated[float | None, typer.Option(help="lambda of the attention (SCAN, IMRAM).")] = None,
    renormalise: Annotated[bool | None, typer.Option("--renormalise/--no-renormalise", help="Unit length after an update (IMRAM).")] = None,
    fusion: Annotated[str | None, typer.Option(help="concat or sum (CAMP).")] = None,
):
    """Turn the authors' weights into a model of this package that gives their scores.

    The checkpoint is read without running any code in it: tensors, numbers, texts, lists, dicts and argparse.Namespace, no more.
    Settings come from the command line, else from what the checkpoint says of its training, else they are the authors' defaults.

    \b
    Examples:
      cmr import checkpoint model_best.pth.tar models/scan --family scan --vocabulary f30k_precomp_vocab.json
      cmr import checkpoint model_best.pth.tar models/imram --family imram --steps 2 --vocabulary coco_precomp_vocab.json
      cmr import checkpoint checkpoint_150.pth.tar models/camp --family camp --fusion sum
    """
    settings = {"steps": steps, "direction": direction, "pooling": pooling, "inverse_temperature": inverse_temperature,
                "renormalise": renormalise, "fusion": fusion}
    import_weights(file, out, family.value, vocabulary, settings)
