"""Parameter groups and the optimizer over them; the one place outside model/ that calls a timm factory."""

import timm.optim

from src.errors import UserError, nearest


def parameter_groups(network, settings):
    """Split the parameters by rate (backbone, head) and by decay (weights, but no biases, norms or scalars).

    Args:
        network: has `.backbone` and `.head`.
        settings: config.Optimizer.

    Returns:
        list of dicts with name, params, lr and weight_decay; frozen parameters are included, since they may open later.
    """
    groups = []
    for name, module, lr in (
        ("backbone", network.backbone, settings.lr),
        ("head", network.head, settings.lr * settings.head_lr_factor),
    ):
        parameters = list(module.parameters())
        weights = [one for one in parameters if one.ndim > 1]
        others = [one for one in parameters if one.ndim <= 1]
        for params, decay in ((weights, settings.weight_decay), (others, 0.0)):
            if params:
                groups.append({"name": name, "params": params, "lr": lr, "weight_decay": decay})
    return groups


def build_optimizer(settings, network):
    """Build the named optimizer of torch or timm over `parameter_groups`.

    Raises:
        UserError: no such optimizer; the line names the nearest.
    """
    known = timm.optim.list_optimizers()
    if settings.name not in known:
        raise UserError(
            f"optimizer.name={settings.name}: not an optimizer of torch or timm{nearest(settings.name, known)}; "
            "for example adam, adamw, sgd, lion"
        )
    groups = parameter_groups(network, settings)
    return timm.optim.create_optimizer_v2(groups, opt=settings.name, lr=settings.lr, weight_decay=settings.weight_decay)
