"""BatchNorm in evaluation as a part of the convolution before it: a pass over the pixels less, forward and backward.

The idea to know: with fixed mean m and variance v, BN(conv(x)) is a convolution too, of weights w * s and bias
(b - m) * s + beta, where s = gamma / sqrt(v + eps). Gradients reach w, gamma and beta through this small sum, and
nothing is renamed. Where a BatchNorm learns its statistics, both layers are what they were.
"""

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from torch import nn


class _FoldingConv:
    """A convolution that does the work of `folded_norm`, (BatchNorm,), while that is in evaluation."""

    def forward(self, images):
        (norm,) = self.folded_norm
        if norm.training:
            return super().forward(images)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        return self._convolve(images, self.weight * scale.view(-1, 1, 1, 1), bias)


class _FoldingConv2d(_FoldingConv, nn.Conv2d):
    def _convolve(self, images, weight, bias):
        return self._conv_forward(images, weight, bias)


class _FoldingConv2dSame(_FoldingConv, Conv2dSame):
    def _convolve(self, images, weight, bias):
        return conv2d_same(images, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class _FoldedBatchNorm2d(nn.BatchNorm2d):
    def forward(self, images):
        return super().forward(images) if self.training else images


class _FoldedBatchNormAct2d(BatchNormAct2d):
    def forward(self, images):
        return super().forward(images) if self.training else self.act(self.drop(images))


_CONVS = {nn.Conv2d: _FoldingConv2d, Conv2dSame: _FoldingConv2dSame}
_NORMS = {nn.BatchNorm2d: _FoldedBatchNorm2d, BatchNormAct2d: _FoldedBatchNormAct2d}


@torch.no_grad()
def fold_batchnorms(backbone, image_shape):
    """Fold every BatchNorm that sees the output of one convolution and nothing else; return how many.

    Changes the layers' classes in place; parameters, buffers and names stay. Where the backbone then says anything else
    than before, as it does if something besides the BatchNorm reads a convolution's output, all is taken back.

    Args:
        backbone: in evaluation.
        image_shape: (C, H, W) that it takes.

    Reference: Jacob et al., Quantization and Training of Neural Networks, 2018, arXiv:1712.05877, section 3.2, eq. 14.
    """
    images = torch.linspace(-2, 2, torch.Size(image_shape).numel()).view(1, *image_shape)
    pairs, before = _find_pairs(backbone, images)
    plain = [(type(conv), type(norm)) for conv, norm in pairs]
    for conv, norm in pairs:
        conv.folded_norm = (norm,)  # in a tuple, as it stays where it is among the modules
        conv.__class__, norm.__class__ = _CONVS[type(conv)], _NORMS[type(norm)]
    after = backbone(images)
    if torch.allclose(after, before, rtol=1e-3, atol=1e-3 * before.abs().max().nan_to_num().item()):
        return len(pairs)
    for (conv, norm), classes in zip(pairs, plain, strict=True):
        conv.__class__, norm.__class__ = classes
        del conv.folded_norm
    return 0


def _find_pairs(backbone, images):
    """Return ([(conv, norm)], the backbone's output): pairs of which each is called once, the second on the first's."""
    made, pairs, calls = {}, [], []

    def after_conv(conv, _, output):
        made[id(output)] = conv, output  # kept, so that no other tensor gets its id
        calls.append(conv)

    def before_norm(norm, inputs):
        calls.append(norm)
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], norm))

    hooks = [one.register_forward_hook(after_conv) for one in backbone.modules() if type(one) in _CONVS]
    hooks += [one.register_forward_pre_hook(before_norm) for one in backbone.modules() if type(one) in _NORMS]
    try:
        output = backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    called = [id(one) for one in calls]
    return [pair for pair in pairs if all(called.count(id(one)) == 1 for one in pair) and _can_fold(pair[1])], output


def _can_fold(norm):
    return norm.affine and norm.track_running_stats
