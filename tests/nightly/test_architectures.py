"""One backbone of every timm family: its stages are all its parameters, and it predicts the same when reopened."""

from contextlib import suppress

import pytest
import timm
import torch

from src.checkpointing.serialization import load_weights, save_weights
from src.errors import UserError
from src.model.freezing import list_stages
from src.model.network import build_network
from tests.model.building import make_config
from tests.programs.test_batchnorm import check_predictions, is_batchnorm

FAMILIES = sorted(timm.list_modules())


def smallest_of(family, most=12, holds=bool):
    """The family's model with the fewest parameters, of the first `most`, that `holds`; None: there is none.

    They are built on no device.
    """
    sizes = {}
    for name in timm.list_models(module=family)[:most]:
        with torch.device("meta"), suppress(RuntimeError, NotImplementedError):  # which a few cannot be
            model = timm.create_model(name)
            if any(map(holds, model.modules())):
                sizes[name] = sum(one.numel() for one in model.parameters())
    return min(sizes, key=sizes.get, default=None)


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_built_and_reopened(family, tmp_path):
    name = smallest_of(family)
    if name is None:
        pytest.skip("no models of its own")
    size = timm.models.get_pretrained_cfg(name, allow_unregistered=True).input_size[1:]
    config = make_config(backbone=name, pretrained=False, image_size=size)
    try:
        network = build_network(config, 3)
    except UserError as error:
        if name not in str(error):
            raise
        pytest.skip(str(error))
    stages = [parameter for _, names in list_stages(network) for parameter in names]
    assert sorted(stages) == sorted(name for name, _ in network.named_parameters())
    inputs = network.normalize({"image": torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)})
    with torch.no_grad():  # no backward: torch 2.14.1 crashes in that of two families on a CPU
        network.train()(**inputs)  # moves BatchNorm's statistics
        before = network.eval()(**inputs)
        assert before.shape == (2, 3)
        weights = {key: value.clone() for key, value in network.state_dict().items()}
        save_weights(tmp_path / "last.safetensors", weights)
        again = build_network(config, 3, load_pretrained=False)
        load_weights(tmp_path / "last.safetensors", again)
        torch.testing.assert_close(again.eval()(**inputs), before, rtol=0, atol=0)


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_with_batchnorm_predicts_the_same_in_training_in_inference_and_in_timm(family, tmp_path):
    name = smallest_of(family, most=None, holds=is_batchnorm)
    if name is None:
        pytest.skip("no model with BatchNorm")
    size = timm.models.get_pretrained_cfg(name, allow_unregistered=True).input_size[1:]
    check_predictions(name, tmp_path, size)
