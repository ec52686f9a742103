"""A program beside the plots: a run's worst images with saliency, and what training saw, as JSON.

python -m tools.report.pictures RUN FILE.json [FOLDER]

It begins with what is fast and writes the file anew after each step, so that it may be ended at any time. FOLDER takes
the worst images as PNG files.
"""

import base64
import contextlib
import io
import json
import sys
import time
from pathlib import Path

import numpy as np

from src.analysis.errors import find_errors
from src.checkpointing.run_folder import RunFolder
from src.competition.targets import match_ids
from src.config.load import load_saved_config
from src.errors import UserError, first_line
from src.files import save_json
from tools.page import image_url

_COUNT, _SIDE = 12, 160
_SECONDS = 15.0  # after which no further step is begun
_MOST_PIXELS = 40_000_000  # of an image that is read
_NUM_SEEN, _NUM_VIEWS = 6, 3  # training images, and how often each is shown
_AUGMENTED = 64  # validation images that are predicted plain and augmented


def main(words):
    run, path = words[:2]
    sys.modules["wandb"] = None  # which timm tries to import, for half a second; it does without
    began, found = time.perf_counter(), {"orders": [], "worst": [], "note": ""}
    try:
        for step in _build_steps(run, found, Path(words[2]) if len(words) > 2 else None):
            step()
            save_json(path, found)
            if time.perf_counter() - began > _SECONDS:
                break
        else:
            save_json(path, found | {"is_complete": True})
    except Exception as error:  # whatever a network or an image raises, the page goes without it
        found["note"] = found["note"] or first_line(error)
        save_json(path, found)


def _build_steps(run, found, folder):
    """Yield functions, each of which adds to `found`."""
    config = load_saved_config(run)
    runs, is_blend = RunFolder(run), RunFolder(run).made_by.is_file()
    orders = [("Hardest", "The highest loss first.", find_errors(run, _COUNT))]
    if config.competition.task != "regression":
        sure = find_errors(run, None, by="confidence")
        found["confidently_wrong"] = {"rows": int((sure["confidence"] > 0.95).sum()), "wrong": len(sure)}
        text = "Wrong with the highest confidence: look for wrong labels here."
        if len(sure) and sure["id"].head(_COUNT).tolist() != orders[0][2]["id"].tolist():
            orders.append(("Most confidently wrong", text, sure.head(_COUNT)))
        elif len(sure):  # of one label they often are the same
            orders = [("Hardest and most confidently wrong", f"The highest loss first. {text}", orders[0][2])]
    for title, sentence, errors in orders:
        rows = [_describe(one, config) for one in errors.to_dict("records")]
        if rows:
            found["orders"].append({"title": title, "sentence": sentence, "rows": rows})
    found["worst"] = [_as_fact(one) for one in orders[0][2].to_dict("records")]
    yield lambda: None
    from src.competition.tables import load_train_table

    table = load_train_table(config.competition, encoding=runs.load_encoding(config.competition))
    yield lambda: _add_images(found, config, table, folder)
    trained = [] if is_blend else runs.started_folds()
    networks = [one.number for one in trained if one.weights(config.train.select).is_file()]
    if networks and config.competition.channels in (1, 3):
        yield lambda: _add_saliency(found, config, runs, table, networks, [one for _, _, one in orders])
    if not is_blend:
        yield lambda: _add_seen(found, config, table)
    if networks and any(one != "all" for one in networks):
        yield lambda: _add_augmentation(found, config, runs, table, next(one for one in networks if one != "all"))


def _describe(row, config):
    names = [name.removeprefix("target_") for name in row if name.startswith("target_")]
    sure = row["confidence"]
    lines = [f"label {row['label']}", f"predicted {row['predicted']}" + (f" ({sure:.3f})" if sure == sure else "")]
    if config.competition.task == "binary":
        lines[1] = f"predicted {row[f'prob_{names[0]}']:.3f}"
    lines.append(f"loss {row['loss']:.3f}")
    one = {"id": str(row["id"]), "fold": int(row["fold"]), "lines": lines}
    return one | {"source": None, "overlay": None, "is_small": False}


def _as_fact(row):
    targets = {name.removeprefix("target_"): value for name, value in row.items() if name.startswith("target_")}
    probs = {name: row[f"prob_{name}"] for name in targets}
    targets = {name: None if value != value else value for name, value in targets.items()}
    if len(targets) > 20:  # of many classes those that matter
        kept = sorted(probs, key=lambda name: -max(probs[name], targets[name] or 0))[:20]
        targets, probs = ({name: one[name] for name in kept} for one in (targets, probs))
    return {"id": str(row["id"]), "fold": int(row["fold"]), "targets": targets, "probs": probs,
            "loss": float(row["loss"]), "picture": None}  # fmt: skip


def _add_images(found, config, table, folder):
    """Add each row's image as a data URL, and the worst ones as files of a folder."""
    from src.data.decode import decode_image
    from src.data.inspection import tile_images

    rows = {row["id"]: row for order in found["orders"] for row in order["rows"]}
    places, _, _ = match_ids(list(rows), table.ids)
    images = {}
    for name, place in zip(rows, places, strict=True):
        if place >= 0:
            with contextlib.suppress(UserError, OSError, ValueError, TypeError):
                image = decode_image(str(table.paths[place]), config.competition)
                images[name] = as_uint8(tile_images(image, config.competition.channels))
    for order in found["orders"]:
        for row in order["rows"]:
            if row["id"] in images:
                image = images[row["id"]]
                row |= {"source": image_url(image, _SIDE), "is_small": max(image.shape[:2]) < 64}
    if folder is not None:
        from matplotlib import image as files

        (folder / "worst").mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(found["worst"]):
            if one["id"] in images:
                path = folder / "worst" / f"{number}.png"
                files.imsave(path, np.repeat(images[one["id"]], 4 - images[one["id"]].shape[2], axis=2)[..., :3])
                one["picture"] = str(path)


def as_uint8(image):
    """Return an image (H, W, C) of any channels and type as (H, W, 1 or 3) uint8, stretched where it is not uint8."""
    image = np.asarray(image)
    image = image[:, :, None] if image.ndim == 2 else image
    image = image if image.shape[2] in (1, 3) else image[:, :, :1]
    if image.dtype != np.uint8:
        values = np.nan_to_num(image.astype(np.float64))
        low, high = values.min(), values.max()
        image = ((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    return image


def _load_network(config, fold):
    from src.checkpointing.serialization import load_network

    return load_network(config, fold).place(_cpu(), False)


def _cpu():
    import torch

    torch.set_num_threads(1)  # the plots have the other core
    return torch.device("cpu")


def _add_saliency(found, config, runs, table, networks, orders):
    """Lay over each row's image, as its fold's network sees it, the map of what made it predict so."""
    from src.analysis.saliency import compute_saliency
    from src.data.dataset import ImageDataset, build_loader
    from src.data.inspection import tile_images
    from src.data.transforms import build_resize

    shown = [(row, error) for order, errors in zip(found["orders"], orders, strict=False)
             for row, error in zip(order["rows"], errors.to_dict("records"), strict=True) if row["source"]]  # fmt: skip
    for number in sorted({row["fold"] for row, _ in shown} & {one for one in networks if one != "all"}):
        network = _load_network(config, runs.fold(number)).eval()
        own = [(row, error) for row, error in shown if row["fold"] == number]
        names = dict.fromkeys(row["id"] for row, _ in own)  # a row may be in both orders
        of_name = dict(zip(names, match_ids(list(names), table.ids)[0], strict=True))
        places = np.array([of_name[row["id"]] for row, _ in own])
        dataset = ImageDataset(table.take(places), config.competition, build_resize(config), config.seed)
        inputs = next(build_loader(dataset, len(own), num_workers=0).batches(0))["inputs"]
        columns, signs = (np.array([error[key] for _, error in own]) for key in ("column", "sign"))
        channels = config.competition.channels
        maps = compute_saliency(network, inputs, columns, signs, config.competition.row_channels // channels)
        images = tile_images(next(one for one in inputs.values() if one.ndim == 4).numpy(), channels)
        for (row, _), image, one in zip(own, images, [] if maps is None else maps, strict=maps is not None):
            image = as_uint8(image)
            row |= {"source": image_url(image, _SIDE), "overlay": _draw_overlay(one, image.shape[:2])}
            row["is_small"] = max(image.shape[:2]) < 64
    found["has_saliency"] = any(row["overlay"] for row, _ in shown)


def _draw_overlay(saliency, size):
    """Return a map (h, w) in [0, 1] as the data URL of a PNG of an image's shape, the clearer the higher."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    scale = 96 / max(size)
    sides = (max(2, round(side * scale)) for side in size)
    rows, columns = ((np.arange(side) + 0.5) * one / side - 0.5
                     for one, side in zip(saliency.shape, sides, strict=True))  # fmt: skip
    wide = np.stack([np.interp(columns, np.arange(saliency.shape[1]), row) for row in saliency])
    smooth = np.stack([np.interp(rows, np.arange(saliency.shape[0]), one) for one in wide.T], axis=1)
    color = colormaps["inferno"](smooth)
    color[..., 3] = 0.65 * np.clip(smooth, 0, 1)
    file = io.BytesIO()
    imsave(file, color, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _add_seen(found, config, table):
    """Add some training images as they are, and as training's first epochs see them."""
    from src.analysis.batches import choose_rows, compute_columns

    rows = choose_rows(table, _NUM_SEEN, config.seed)
    columns, lines = compute_columns(config, table.take(rows), num_augmented=_NUM_VIEWS)
    shown = []
    for heading, images, captions in columns:
        for image, caption in zip(images, captions, strict=True):
            image = as_uint8(image)
            small = max(image.shape[:2]) < 64
            shown.append({"heading": heading, "caption": str(caption).replace("\n", ", "), "is_small": small,
                          "source": image_url(image, 120)})  # fmt: skip
    found["seen"] = {"images": shown, "transforms": list(lines), "rows": len(rows)}


def _add_augmentation(found, config, runs, table, number):
    """Add which class the augmentation turns into which, on rows that the network has not learned from."""
    from src.analysis.augmentation import compute_augmentation_effect
    from src.competition.tables import read_table

    folds = read_table(runs.folds)
    own = folds["id"][folds["fold"] == str(number)].to_numpy(dtype=str)
    places, missing, _ = match_ids(own, table.ids)
    if len(missing) or not len(places):
        return
    network = _load_network(config, runs.fold(number)).eval()
    effect = compute_augmentation_effect(config, network, table.take(places), max_images=_AUGMENTED, seconds=2.0)
    flips = effect.list_flips(10).to_dict("records") if effect.matrix is not None else []
    found["augmentation"] = {
        "fold": number, "images": effect.num_images, "flips": effect.num_flips, "change": effect.change,
        "pairs": flips, "transforms": effect.transforms.to_dict("records"),
    }  # fmt: skip
    found["augmentation"] = json.loads(json.dumps(found["augmentation"], default=lambda one: one.item()))


if __name__ == "__main__":
    main(sys.argv[1:])
