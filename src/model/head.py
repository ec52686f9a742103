"""From feature maps to logits: the poolings, and the heads with their activations and first weights."""

import inspect
from functools import partial

import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn
from torch.nn import functional

from src.config.registry import check_kwargs
from src.errors import UserError, first_line

# relu: Nair and Hinton, 2010; leaky_relu: Maas et al., 2013; gelu: Hendrycks and Gimpel, 2016, arXiv:1606.08415; silu:
# Elfwing et al., 2017, arXiv:1702.03118
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU}
ACTIVATIONS["leaky_relu"] = nn.LeakyReLU
INITIALIZERS = {
    "default": None,  # torch's own weights and biases
    "zero": nn.init.zeros_,
    "normal": nn.init.normal_,  # of a deviation; Krizhevsky et al., ImageNet Classification, 2012, section 5: 0.01
    "xavier_uniform": nn.init.xavier_uniform_,  # Glorot and Bengio, Difficulty of training deep networks, 2010, eq. 16
    "xavier_normal": nn.init.xavier_normal_,
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),  # He et al., 2015, arXiv:1502.01852, eq. 10
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),  # LeCun et al., Efficient BackProp, 1998
    "orthogonal": nn.init.orthogonal_,  # Saxe et al., Exact solutions in deep linear networks, 2014, arXiv:1312.6120
}


class MLPHead(nn.Module):
    """Hidden layers of `widths` with activation and dropout, then the last linear layer.

    prior_bias: the last bias starts at `prior`, (K,) the share of positives or of each class in training (Lin et al.,
    2017, arXiv:1708.02002, section 3.3). dropout_samples: dropout masks at the last layer, whose logits are averaged
    (Inoue, Multi-Sample Dropout, 2019, arXiv:1905.09788, averages their losses). batchnorm: before each activation
    (Ioffe and Szegedy, 2015, arXiv:1502.03167). init_std: the deviation of init=normal.
    """

    def __init__(
        self, num_features, num_targets, drop_rate, prior, is_multiclass, widths=(), activation="relu",
        leaky_slope=0.01, init="default", init_std=0.01, prior_bias=False, dropout_samples=1, batchnorm=False,
    ):  # fmt: skip
        super().__init__()
        key = "model.head_kwargs"
        if any(type(width) is not int or width < 1 for width in widths):
            raise UserError(f"{key}.widths={list(widths)}: each must be a whole number, at least 1")
        if init == "zero" and widths:
            found = f"hidden layers of zeros never learn ({key}.widths={list(widths)})"
            raise UserError(f"{key}.init=zero: {found}; set {key}.init=he_normal or {key}.widths=[]")
        if dropout_samples > 1 and not drop_rate:
            where = f"{key}.dropout_samples={dropout_samples}"
            raise UserError(f"{where}: all masks are alike without dropout; set model.drop_rate")
        if batchnorm and not widths:
            raise UserError(f"{key}.batchnorm=true: there is no hidden layer to stand in; set {key}.widths=[64]")
        activation = partial(nn.LeakyReLU, leaky_slope) if activation == "leaky_relu" else ACTIVATIONS[activation]
        self.hidden = nn.Sequential()
        for width in widths:
            norms = [nn.BatchNorm1d(width)] if batchnorm else []
            self.hidden.extend([nn.Dropout(drop_rate), nn.Linear(num_features, width), *norms, activation()])
            num_features = width
        self.dropout = nn.Dropout(drop_rate)
        self.last = nn.Linear(num_features, num_targets)
        self.dropout_samples = dropout_samples
        for module in self.modules():
            initialize_layer(module, init, init_std)
        if prior_bias and prior is not None:
            prior = torch.as_tensor(prior, dtype=torch.float32).clamp(1e-4, 1 - 1e-4)  # logits of 0 and 1 are infinite
            self.last.bias.data.copy_(prior.log() if is_multiclass else prior.logit())

    def forward(self, features):
        """Map features (N, D) to logits (N, K)."""
        features = self.hidden(features)
        samples = self.dropout_samples if self.training else 1
        return torch.stack([self.last(self.dropout(features)) for _ in range(samples)]).mean(dim=0)


# name: head(num_features, num_targets, **model.head_kwargs) -> module that maps features (N, D) to logits (N, K);
# drop_rate, prior and is_multiclass are passed to parameters of these names
HEADS = {"mlp": MLPHead}
_RANGES = {"mlp": {"leaky_slope": (0, 1), "init_std": (0, None), "dropout_samples": (1, None)}}
_RANGES["mlp"] |= {"activation": (*ACTIVATIONS,), "init": (*INITIALIZERS,)}


def build_head(config, num_features, num_targets, prior=None):
    """Build the named head; a UserError where it does not take model.head_kwargs or model.drop_rate."""
    settings, name, build = config.model, config.model.head, HEADS[config.model.head]
    check_kwargs("model.head_kwargs", build, settings.head_kwargs, name, **_RANGES.get(name, {}))
    given = {"drop_rate": settings.drop_rate, "prior": prior, "is_multiclass": config.competition.task == "multiclass"}
    given = {key: value for key, value in given.items() if key in inspect.signature(build).parameters}
    if settings.drop_rate and "drop_rate" not in given:
        raise UserError(f"model.drop_rate={settings.drop_rate}: model.head={name} has no dropout; set it to 0")
    return build(num_features, num_targets, **settings.head_kwargs | given)


class Attention(nn.Module):
    """Gated attention over the images of a row: Ilse et al., 2018, arXiv:1802.04712, eq. 9, of 128 hidden units."""

    def __init__(self, num_features):
        super().__init__()
        self.hidden, self.gate = nn.Linear(num_features, 128), nn.Linear(num_features, 128)
        self.score = nn.Linear(128, 1)

    def forward(self, features):
        """Map (N, V, D) to (N, D)."""
        scores = self.score(self.hidden(features).tanh() * self.gate(features).sigmoid())
        return (scores.softmax(dim=1) * features).sum(dim=1)


# competition.images_as: join(num_features) -> function of the features of a row's V images, (N, V, D), to (N, D)
JOINS = {
    "mean": lambda num_features: lambda features: features.mean(dim=1),
    "max": lambda num_features: lambda features: features.amax(dim=1),
    "attention": Attention,
}


class JoinedFeatures(nn.Module):
    """One of JOINS for `num_images` images a row: maps (N, V * D) to (N, D)."""

    def __init__(self, name, num_images, num_features):
        super().__init__()
        self.num_images, self.join = num_images, JOINS[name](num_features)

    def forward(self, features):
        return self.join(features.unflatten(1, (self.num_images, -1)))


def initialize_layer(module, method, std=0.01):
    """Set a Linear or Conv2d layer's weight by a name of INITIALIZERS and its bias to zero; leave other modules.

    std: the deviation of method="normal".
    """
    if INITIALIZERS[method] is not None and isinstance(module, (nn.Linear, nn.Conv2d)):
        INITIALIZERS[method](module.weight, **({"std": std} if method == "normal" else {}))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class GeM(nn.Module):
    """Generalised mean of each map; its power p, 1: average, is learned (Radenovic, 2018, arXiv:1711.02512, eq. 3)."""

    def __init__(self, p=3.0, eps=1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, features):
        """Map (N, C, H, W) to (N, C)."""
        powers = features.float().clamp(min=self.eps).pow(self.p)
        return functional.adaptive_avg_pool2d(powers, 1).pow(1 / self.p).flatten(1)


# name: None, the backbone's own; timm's word; or pooling() -> module that maps (N, C, H, W) to (N, C)
POOLINGS = {"auto": None, "avg": "avg", "max": "max", "avgmax": "avgmax", "gem": GeM}


class NewPooling(nn.Module):
    """A module of POOLINGS in the place of timm's, with the shapes of that one."""

    def __init__(self, pooling, replaced):
        super().__init__()
        self.pooling = pooling
        self.is_nhwc = getattr(replaced.pool, "dim", None) == (1, 2)
        self.flattens = not isinstance(replaced.flatten, nn.Identity) or bool(getattr(replaced.pool, "flatten", False))

    def forward(self, features):
        """Map (N, C, H, W) or (N, H, W, C) to (N, C) or (N, C, 1, 1)."""
        pooled = self.pooling(features.permute(0, 3, 1, 2) if self.is_nhwc else features)
        return pooled if self.flattens else pooled[:, :, None, None]


def set_pooling(backbone, config):
    """Give a backbone the named pooling, once its weights are loaded: before, a ViT would get a norm without any."""
    pooling, where = POOLINGS[config.model.pool], f"model.pool={config.model.pool}"
    if isinstance(pooling, str):
        try:
            backbone.reset_classifier(0, pooling)
        except (AssertionError, AttributeError, TypeError) as error:
            reason = f"{config.model.backbone} does not take it ({first_line(error)})"
            raise UserError(f"{where}: {reason}; set model.pool=auto") from None
    elif pooling is not None:
        places = [(place, one) for place, one in backbone.named_modules() if isinstance(one, SelectAdaptivePool2d)]
        for place, replaced in places:
            backbone.set_submodule(place, NewPooling(pooling(), replaced))
        if not places:
            advice = "avg" if hasattr(backbone, "reset_classifier") else "auto"
            raise UserError(f"{where}: {config.model.backbone} has no feature map to pool; set model.pool={advice}")
        if config.keeps_features and list(pooling().parameters()):
            raise UserError(f"{where}: learns inside the backbone, whose features are kept; set train.views=0")
