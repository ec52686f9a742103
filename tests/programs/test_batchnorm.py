"""BatchNorm from training to the submission: a fold, the reopened fold and timm's plain network predict the same."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from src.checkpointing.run_folder import RunFolder
from src.checkpointing.serialization import load_network
from src.config.load import load_saved_config
from tests.launch import Forked

NUM_IMAGES = 8


def is_batchnorm(module):
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def draw_images(size):
    """Random colours in 4 x 4 fields, as uint8: noise alone is one and the same to a pooling layer."""
    rng = np.random.default_rng(0)
    fields = rng.integers(0, 256, (NUM_IMAGES, 4, 4, 3), np.uint8)
    return [np.asarray(Image.fromarray(one).resize(size[::-1])) for one in fields]


def randomize_batchnorm(network, images):
    """Give every BatchNorm random scales and shifts, and the statistics of images (N, C, H, W), a tenth beside them.

    At its first values it is nearly the identity; far from the images' own, a deep network forgets what it sees.
    """
    norms = [one for one in network.modules() if is_batchnorm(one)]
    for norm in norms:
        norm.momentum = 1.0
        if norm.affine:
            norm.weight.data.copy_(0.5 + torch.rand_like(norm.weight))
            norm.bias.data.copy_(torch.rand_like(norm.bias) - 0.5)
    network.train()(images)
    network.eval()
    for norm in norms:
        mean, var = norm.running_mean, norm.running_var
        var.copy_(var.clamp(min=0.3 * var.mean()) * (0.9 + 0.2 * torch.rand_like(var)))
        mean += 0.1 * (torch.rand_like(mean) - 0.5) * var.sqrt()


def check_predictions(name, folder, size):
    """Train one step of `name` from weights whose BatchNorm is random, infer the training images, compare all three."""
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0, **_size_of(name, size))
    assert any(map(is_batchnorm, plain.modules()))
    images = draw_images(size)
    with torch.no_grad():
        randomize_batchnorm(plain, (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) - 127.0) / 60)
    save_file({key: one.contiguous() for key, one in plain.state_dict().items()}, folder / "weights.safetensors")
    (folder / "images").mkdir()
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / f"images/{row}.png")
    rows = pd.DataFrame({"id": range(NUM_IMAGES), "t": [0, 1] * (NUM_IMAGES // 2)})
    rows.to_csv(folder / "train.csv", index=False)
    rows[["id"]].to_csv(folder / "test.csv", index=False)
    keys = {"root": folder, "train_table": "train.csv", "test_table": "test.csv", "targets": "[t]"}
    keys |= {name: "'images/{id}.png'" for name in ("train_image", "test_image")}
    lines = "".join(f"  {key}: {value}\n" for key, value in keys.items())
    (folder / "few.yaml").write_text(f"competition:\n{lines}")
    words = [
        f"competition={folder}/few.yaml", f"model.backbone={name}", "model.weights=weights.safetensors", "name=run",
        f"image_size=[{size[0]},{size[1]}]", "num_folds=2", "fold=0", "train.epochs=1", "train.batch_size=4",
        "optimizer.lr=1e-5", "precision=fp32", "train.channels_last=true", "tracking=none", "report=false", "cache=off",
        "model.kwargs={}", "train.num_workers=0",
    ]  # fmt: skip
    for program, given in (("train.py", words), ("infer.py", ["run=outputs/run", "train.num_workers=0"])):
        status, log = Forked(program, given, folder, folder / "log").status(), (folder / "log").read_text()
        if status == -11:  # a kernel's, in the backward of two families
            pytest.skip(f"torch {torch.__version__} crashes in {program}")
        assert status == 0, log[-3000:]
    run = RunFolder(folder / "outputs/run")
    fold = run.fold(0)
    val, test = (pd.read_csv(one).set_index("id")["t"] for one in (fold.path / "val.csv", fold.test))
    assert len(val) == NUM_IMAGES // 2
    np.testing.assert_allclose(test[val.index], val, rtol=1e-5)

    network = load_network(load_saved_config(run.path), fold)
    plain.load_state_dict(network.backbone.state_dict())
    inputs = torch.from_numpy(np.stack([images[row] for row in val.index]))
    inputs = network.normalize({"image": inputs})["image"]
    with torch.no_grad():
        inputs = inputs.double()
        logits = network.head.double()(plain.double()(inputs.contiguous()))
        torch.testing.assert_close(network.double()(image=inputs), logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(val, torch.sigmoid(logits[:, 0]), atol=0.01)  # in fp32, through deep random networks
    assert val.nunique() > 1


def _size_of(name, size):
    default = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    return {"img_size": size} if default.fixed_input_size else {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_resnet", (64, 48)),
        ("test_efficientnet", (64, 48)),
        ("mobilevit_xxs", (64, 64)),
        ("coatnet_pico_rw_224", (224, 224)),
    ],  # tests/nightly/test_architectures.py: one of each of timm's families
)
def test_validation_inference_and_timm_predict_the_same(name, size, tmp_path):
    check_predictions(name, tmp_path, size)
