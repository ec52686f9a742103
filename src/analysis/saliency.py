"""Where in an image a network looks: Grad-CAM on the last feature map of any backbone, or on its patch tokens."""

from contextlib import contextmanager

import numpy as np
import torch

from src.data.inspection import tile_images

_LEAST_SIDE = 4  # places of a feature map's shorter side, where the backbone has such a map


def compute_saliency(network, inputs, columns, signs=1, num_images=1):
    """Return what speaks for a column of each row's logits, (N, h, w) float32 in [0, 1], at the feature map's size.

    None where the backbone has neither a feature map of more than one place nor patch tokens, or a row several images
    by name. Of `num_images` images in one input the map is a grid, as data.inspection.tile_images makes it of them;
    where they are channels of one image, each has the same map.

    Args:
        network: model.network.Network in evaluation mode; it is left as it is.
        inputs: {name: tensor (N, ...)} as loaders yield them, on any device: raw images (N, H, W, C).
        columns: the logit of each row, (N,) int or one int for all; of regression the value.
        signs: 1, or -1 for what speaks against the column (of a binary label: for the other class), (N,) or a number.

    Reference: Selvaraju et al., Grad-CAM, 2017, arXiv:1610.02391, eq. 1 and 2, each map divided by its largest value.
    Of small images the last map may have 1 or 4 places, which say nothing: the last one of 4 x 4 is taken, where there
    is one. Where a class token is all that the head sees, the gradient reaches the patch tokens before the last
    attention only: the last tokens that it reaches are taken, without prefix tokens.
    """
    device = network.pixel_mean.device
    if sum(one.ndim == 4 for one in inputs.values()) != 1:  # a map would lie over the wrong one
        return None
    with torch.inference_mode(False), torch.enable_grad():
        inputs = {name: one.to(device) for name, one in inputs.items()}
        place = _find_place(network, {name: one[:1].clone() for name, one in inputs.items()})
        if place is None:
            return None
        caught = []
        with _hooked(network.backbone, lambda name, call, output: _catch(caught, output, place == (name, call))):
            logits = network(**network.normalize(inputs))
        rows = torch.arange(len(logits), device=device)
        columns, signs = (torch.tensor(getattr(one, "tolist", lambda one=one: one)(), device=device)
                          for one in (columns, signs))  # fmt: skip
        columns = columns.expand(len(logits))
        [gradient] = torch.autograd.grad((signs * logits[rows, columns]).sum(), caught)
        size = _image_size(network, inputs)
        activation, gradient = (_to_map(network.backbone, one.detach().float(), size) for one in (*caught, gradient))
        weights = gradient.mean(dim=(2, 3), keepdim=True)  # eq. 1
        maps = (weights * activation).sum(dim=1).relu()  # eq. 2
        maps = maps.unflatten(0, (len(logits), -1)).permute(0, 2, 3, 1)  # (N, h, w, images that the backbone has seen)
        maps = tile_images(maps.expand(-1, -1, -1, num_images).cpu().numpy(), channels=1)[..., 0]
        return (maps / maps.max(axis=(1, 2), keepdims=True).clip(np.finfo(maps.dtype).tiny)).astype(np.float32)


def _find_place(network, inputs):
    """Return (module's name, number of its call) of the last feature map that the logits depend on, or None.

    It is found by one image's gradient: what a module returns is no feature map that counts where that is zero.
    """
    size, found = _image_size(network, inputs), {}

    def keep(name, call, output):
        is_map = output.requires_grad and _to_map(network.backbone, output, size) is not None
        if is_map and ".attn." not in name:  # an attention's values are as many as its tokens
            found[name, call] = output

    # the gradient of frozen layers, too; a leaf's copy, as a first layer may work in place
    inputs = network.normalize(inputs)
    inputs = {name: one.requires_grad_().clone() if one.ndim == 4 else one for name, one in inputs.items()}
    with _hooked(network.backbone, keep):
        logits = network(**inputs)
    if not found:
        return None
    scales = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    gradients = torch.autograd.grad((logits * scales).sum(), list(found.values()), allow_unused=True)
    reached, fine = [], []
    for place, gradient in zip(found, gradients, strict=True):
        if gradient is not None and (one := _to_map(network.backbone, gradient, size)).any():
            reached.append(place)
            fine += [place] if min(one.shape[2:]) >= _LEAST_SIDE else []
    return [*found, *reached, *fine][-1]  # a head of zeros reaches none


def _catch(caught, output, is_place):
    """Return in the place of a feature map one that the graph begins with, and keep it; else None."""
    if not is_place:
        return None
    caught.append(output.detach().requires_grad_().clone())  # no leaf, as the next layer may work in place
    return caught[-1]


@contextmanager
def _hooked(backbone, hook):
    """Inside the block call hook(module's name, number of its call, output) for every tensor that a module returns."""
    calls, handles = {}, []

    def after(name, module, args, output):
        if not isinstance(output, torch.Tensor):
            return None
        calls[name] = calls.get(name, 0) + 1
        return hook(name, calls[name], output)

    for name, module in backbone.named_modules():
        handles.append(module.register_forward_hook(lambda *args, name=name: after(name, *args)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _image_size(network, inputs):
    """Return (height, width) of the first of the inputs {name: tensor} that is an image."""
    return next(tuple(one.shape[1:3]) for one in inputs.values() if one.ndim == 4)


def _to_map(backbone, output, size):
    """Return a module's output as a feature map (N, D, h, w) of an image of `size`, or None where it is none.

    It is (N, D, h, w), (N, h, w, D) or, of tokens, (N, prefix + h * w, D), and h : w as the image's.
    """
    if output.ndim == 3 and output.is_floating_point():
        return _tokens_to_map(backbone, output, size)
    if output.ndim != 4 or not output.is_floating_point() or _has_tokens(backbone):
        return None
    nchw, nhwc = _fits(output.shape[2:], size), _fits(output.shape[1:3], size)
    if nhwc and (not nchw or getattr(backbone, "output_fmt", "NCHW") == "NHWC"):
        return output.permute(0, 3, 1, 2)
    return output if nchw else None


def _has_tokens(backbone):
    """Whether a backbone of timm is of tokens alone: its attention then has outputs of four dimensions, no maps."""
    return hasattr(backbone, "num_prefix_tokens") and getattr(backbone, "output_fmt", "NLC") == "NLC"


def _tokens_to_map(backbone, output, size):
    if output.shape[2] != getattr(backbone, "num_features", None):  # queries, keys and values are no tokens
        return None
    for num_prefix in dict.fromkeys((getattr(backbone, "num_prefix_tokens", 0), 0)):
        count = output.shape[1] - num_prefix
        height = round((max(count, 0) * size[0] / size[1]) ** 0.5)
        if height and count % height == 0 and _fits((height, count // height), size):
            patches = output[:, num_prefix:].unflatten(1, (height, count // height))
            return patches.permute(0, 3, 1, 2)
    return None


def _fits(shape, size):
    """Whether (h, w) is a map of more than one place of an image (H, W): both sides divided alike, but for rounding."""
    height, width = shape
    step = max(size[0] / height, size[1] / width)
    is_alike = abs(height - size[0] / step) <= 1 and abs(width - size[1] / step) <= 1
    return height * width > 1 and is_alike and height <= size[0] and width <= size[1]
