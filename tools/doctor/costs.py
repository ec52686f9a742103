"""The cost of one image: seconds to decode, augment, train on and predict it, and bytes, from a few timed steps."""

import dataclasses
import time

import numpy as np
import torch

from src.data.decode import decode_image
from src.data.transforms import build_augmentation
from src.device import autocast, resolve_precision
from src.model.network import build_network
from src.training.optimizer import build_optimizer

_QUICK_SECONDS = 0.4  # a step faster than this is repeated with a larger batch
_BUDGET_SECONDS = 0.5  # for the timed steps, of training and of prediction each
_NUM_LOADED = 8  # images whose decoding and augmentation are timed


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds to train on one image, to predict it, to decode it and to augment it.

    `weight_bytes` are those of the network, `activation_bytes` what its layers keep of an image for the gradient,
    `pixel_bytes` those of one channel of a decoded pixel.
    """

    train: float
    predict: float
    decode: float
    augment: float
    weight_bytes: int
    activation_bytes: int
    pixel_bytes: int = 1


def measure_costs(config, table, rows, device):
    """Return the Costs of an image, from a few steps with random weights and the loading of a few images.

    Raises:
        UserError: the network or the augmentation cannot be built, or an image cannot be decoded.
    """
    channels, size = config.competition.row_channels, config.image_size
    first = decode_image(str(table.paths[int(rows[0])]), config.competition)
    augmentation = build_augmentation(config, first.dtype == np.uint8)
    paths = [str(table.paths[int(row)]) for row in rows[np.linspace(0, len(rows) - 1, _NUM_LOADED).astype(int)]]
    augmentation(first, 0)  # the first call imports
    began = time.perf_counter()
    images = [decode_image(path, config.competition, augmentation.decode_size) for path in paths]
    decoded = time.perf_counter()
    for seed, image in enumerate(images):
        augmentation.load(image, seed)
    augmented = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = build_network(config, len(table.target_names), load_pretrained=False)
        network.place(device, config.train.channels_last)
        activation_bytes = _count_activations(network, channels, size, device)
        train, predict = _time_network(config, network, device, resolve_precision(config.precision, device))
    weight_bytes = sum(one.numel() * one.element_size() for one in network.state_dict().values())
    decode, augment = (decoded - began) / len(paths), (augmented - decoded) / len(paths)
    return Costs(train, predict, decode, augment, weight_bytes, activation_bytes, images[0].itemsize)


def _time_network(config, network, device, precision):
    """Return [seconds to train on an image, seconds to predict one]."""
    optimizer = build_optimizer(config.optimizer, network)

    def train(images):
        with autocast(device, precision):
            logits = network(**network.normalize({"image": images}))
        (logits.float() - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return logits

    @torch.inference_mode()
    def predict(images):
        with autocast(device, precision):
            return network(**network.normalize({"image": images}))

    num_threads, seconds = torch.get_num_threads(), []
    for step, is_training in ((train, True), (predict, False)):
        network.train(is_training)
        fastest = []
        # on a busy machine two threads wait for each other, up to a hundred times as long as one thread takes
        for threads in {num_threads, 1} if device.type == "cpu" else {num_threads}:
            torch.set_num_threads(threads)
            fastest.append(_time_images(step, config, device))
        torch.set_num_threads(num_threads)
        seconds.append(min(fastest))
    return seconds


def _time_images(step, config, device):
    """Return the seconds of a step per image, with a larger batch where the step is fast."""
    count, largest = 2, min(config.train.batch_size, 32 if device.type == "cuda" else 8)
    seconds = _time_call(step, _draw_images(count, config, device), budget=0)
    while count < largest and seconds < _QUICK_SECONDS:
        count = min(4 * count, largest)
        seconds = _time_call(step, _draw_images(count, config, device), budget=0)
    return min(seconds, _time_call(step, _draw_images(count, config, device), _BUDGET_SECONDS)) / count


def _draw_images(count, config, device):
    shape = (count, *config.image_size, config.competition.row_channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8).to(device)


def _time_call(step, images, budget):
    """Return the seconds of the fastest of at least two calls after one warm-up call.

    Other programs make calls slower, never faster.
    """
    seconds, start = [], time.perf_counter()
    while len(seconds) < 3 or (time.perf_counter() - start < budget and len(seconds) < 20):
        began = time.perf_counter()
        step(images).float().sum().item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _count_activations(network, channels, size, device):
    """Return the bytes of all layers' outputs for one image: about what the gradient needs."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        if isinstance(output, torch.Tensor):
            total += output.numel() * 4

    layers = [module for module in network.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    network.eval()
    with torch.no_grad():
        network(image=torch.zeros(1, channels, *size, device=device))
    for hook in hooks:
        hook.remove()
    return total
