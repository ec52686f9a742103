"""Which part of the network learns: stages from input to head, frozen from the front; frozen means eval, always."""

import os
from contextlib import suppress

import pandas as pd
from timm.models import group_parameters
from torch import nn

from src.errors import UserError


def list_stages(network):
    """Return [(name, [parameter names])] from the input to the head; the backbone's stages are timm's coarse groups."""
    parameters = dict(network.named_parameters())
    stages, of_head = [], [name for name in parameters if not name.startswith("backbone.")]  # and what a fork adds
    for group in _group_backbone(network.backbone):
        of_head += [f"backbone.{name}" for name in group if "global_pool" in name]  # a new pooling's, as GeM's p
        names = [f"backbone.{name}" for name in group if "global_pool" not in name]
        if stages and all(parameters[name].ndim <= 1 for name in names):  # norms: ConvNeXt's and Swin's last group
            stages[-1][1].extend(names)
        elif names:
            shared = os.path.commonprefix([name.split(".")[1:] for name in names])  # noqa: RUF071  of lists: whole words
            stages.append((".".join(shared) or names[0].split(".")[1], names))
    return [*stages, ("head", of_head)]


def freeze(network, method, gradual_epochs=1, head_first_epochs=0):
    """Freeze the stages that do not learn in the first epoch; `open_stages` opens those that learn later.

    method: none, head_only, a number n (the head and the backbone's last n stages learn) or gradual (after every
    `gradual_epochs` epochs one stage more; Howard and Ruder, 2018, arXiv:1801.06146, section 3.3). In the first
    `head_first_epochs` the head learns alone (Kumar et al., 2022, arXiv:2202.10054).
    """
    num_stages = len(list_stages(network)) - 1
    if method.isdigit() and int(method) > num_stages:
        raise UserError(f"model.freeze={method}: the backbone has {num_stages} stages; set a smaller number or none")
    network.freeze_plan = (method, gradual_epochs, head_first_epochs)
    open_stages(network, 0)


def open_stages(network, epoch):
    """Let the head and the backbone's last stages learn that learn in this epoch (from 0); return if any changed."""
    method, gradual_epochs, head_first_epochs = network.freeze_plan
    stages, parameters = list_stages(network), dict(network.named_parameters())
    counts = {"none": len(stages) - 1, "head_only": 0, "gradual": epoch // gradual_epochs}
    count = 0 if epoch < head_first_epochs else counts[method] if method in counts else int(method)
    before = [parameter.requires_grad for parameter in parameters.values()]
    for place, (_, names) in enumerate(reversed(stages)):
        for name in names:
            parameters[name].requires_grad_(place <= count)
    network.train(network.training)  # what opened while training leaves eval
    return before != [parameter.requires_grad for parameter in parameters.values()]


def learns_head_alone(network):
    """Return whether nothing outside `network.head`, but for the auxiliary one, learns in any epoch."""
    is_frozen = getattr(network, "freeze_plan", ("none",))[0] in ("head_only", "0")
    return is_frozen and all(name.startswith(("head.", "auxiliary.")) for name in list_stages(network)[-1][1])


def keep_frozen_in_eval(network):
    """Put modules whose parameters are all frozen into eval, so that no statistic moves and nothing drops out."""
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
    for module in network.backbone.modules() if network.freeze_batchnorm else ():  # scale and shift may still learn
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def describe_parameters(network):
    """Return a pandas table of each stage's parameters and how many of them learn."""
    parameters, rows = dict(network.named_parameters()), []
    for stage, names in [*list_stages(network), ("all", parameters)]:
        counts = [(parameters[name].numel(), parameters[name].requires_grad) for name in names]
        rows.append((stage, sum(n for n, _ in counts), sum(n for n, learns in counts if learns)))
    return pd.DataFrame(rows, columns=["stage", "parameters", "trainable"])


def _group_backbone(backbone):
    """Return lists of parameter names from input to output; by modules where timm has no groups."""
    with suppress(AttributeError, AssertionError):  # of one's own backbone, of timm's RDNet
        groups = group_parameters(backbone, backbone.group_matcher(coarse=True))
        return [groups[key] for key in sorted(groups)]
    groups = {}
    for name, _ in backbone.named_parameters():
        top, *rest = name.split(".")
        is_series = isinstance(getattr(backbone, top), (nn.Sequential, nn.ModuleList))
        groups.setdefault((top, rest[0]) if is_series else (top,), []).append(name)
    return list(groups.values())
