"""What is set in a backbone once timm has built it: BatchNorm's momentum and eps, dropout of channels."""

from dataclasses import dataclass

from torch import nn
from torch.nn import functional

from src.errors import UserError


def set_batchnorm(backbone, momentum=None, eps=None):
    """Give every BatchNorm of the backbone this momentum and eps; None: its own.

    Args:
        momentum: torch's, the share of the new batch: running = (1 - momentum) * running + momentum * batch.
        eps: added to the variance.

    Raises:
        UserError: there is no BatchNorm.

    Reference: Ioffe and Szegedy, Batch Normalization, 2015, arXiv:1502.03167, algorithm 1.
    """
    given = {"momentum": momentum, "eps": eps}
    given = {name: value for name, value in given.items() if value is not None}
    norms = [one for one in backbone.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for name, value in given.items():
        if not norms:
            raise UserError(f"model.batchnorm_{name}={value}: the backbone has no BatchNorm; set it to null")
        for norm in norms:
            setattr(norm, name, value)


def add_dropout2d(backbone, rate, name):
    """Leave out whole channels after each stage of the backbone but the last, in training only.

    Behind the last stage comes the pooling, where leaving out channels is what `model.drop_rate` does.

    Args:
        rate: share of channels that become zero; the others grow by 1 / (1 - rate).
        name: the backbone's, for the error.

    Raises:
        UserError: the backbone has no stages of feature maps; here, or at the first forward.

    Reference: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015, arXiv:1411.4280,
    section 3.2.
    """
    stages = [one for one in getattr(backbone, "feature_info", ()) if "module" in one]
    if not stages:
        raise UserError(f"model.dropout2d_rate={rate}: {name} has no stages; set model.drop_rate or drop_path_rate")
    for stage in stages[:-1]:
        backbone.get_submodule(stage["module"]).register_forward_hook(_Dropout2d(rate, stage["num_chs"], name))


@dataclass
class _Dropout2d:
    """A forward hook; it asks the hooked module whether it trains, as copies have a mind of their own.

    Behind a frozen stage, whose output needs no gradient, nothing drops.
    """

    rate: float
    num_channels: int
    name: str

    def __call__(self, module, inputs, output):
        if output.ndim != 4 or output.shape[1] != self.num_channels:
            raise UserError(f"model.dropout2d_rate={self.rate}: {self.name} has no feature maps; set model.drop_rate")
        return functional.dropout2d(output, self.rate, module.training and output.requires_grad)
