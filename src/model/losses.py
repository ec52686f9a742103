"""Logits and targets -> one number to minimise; logits -> probabilities. Always in float32, whatever the logits are.

Logits and targets are (N, C); of regression both are standardised values. A soft target counts as its shares of hard
ones. Class weights (C,) multiply the shares of each class, or of each column's positives; a multiclass mean is divided
by their sum, a binary one not, as in torch.
"""

import inspect

import numpy as np
import torch
from torch.nn import functional

from src.config.registry import check_kwargs
from src.device import to_device
from src.errors import UserError


def bce_loss(logits, targets, weights):
    """Binary cross-entropy of each target, averaged."""
    return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)


def cross_entropy_loss(logits, targets, weights):
    """Cross-entropy of the softmax, averaged over rows; with weights each batch is a mean of its own."""
    total = len(targets) if weights is None else (targets * weights).sum()
    return functional.cross_entropy(logits, targets, weight=weights, reduction="sum") / total


def mse_loss(logits, targets, weights, is_multiclass, is_regression):
    """Squared error of the probabilities, or of regression's values, averaged over all entries."""
    if is_regression:
        return functional.mse_loss(logits, targets)
    return _error_mean((_probs(logits, is_multiclass) - targets).square(), targets, weights, is_multiclass)


def huber_loss(logits, targets, weights, is_multiclass, is_regression, delta=0.5):
    """Half the squared error of probabilities or values, but linear above `delta`; averaged over all entries."""
    if is_regression:
        return functional.huber_loss(logits, targets, delta=delta)
    errors = functional.huber_loss(_probs(logits, is_multiclass), targets, delta=delta, reduction="none")
    return _error_mean(errors, targets, weights, is_multiclass)


def hinge_loss(logits, targets, weights, is_multiclass, margin=1.0):
    """What the logit of the right side lacks to lead zero, or each other class's, by `margin`."""
    if is_multiclass:
        row, label = targets.nonzero(as_tuple=True)  # each class with a share: a soft row has several
        lacks = functional.multi_margin_loss(logits[row], label, margin=margin, reduction="none")
        return _weighted_mean(torch.zeros_like(logits).index_put((row, label), lacks), None, targets, weights)
    return _weighted_mean((margin - logits).clamp(min=0), (margin + logits).clamp(min=0), targets, weights)


def focal_loss(logits, targets, weights, is_multiclass, gamma=2.0):
    """Cross-entropy that fades out what the model already gets right; gamma=0 is plain cross-entropy."""
    if is_multiclass:
        log_probs = functional.log_softmax(logits, dim=1)
        missing = (1 - log_probs.exp()).clamp(min=1e-7)  # at 0 a gamma below 1 has an infinite gradient
        return _weighted_mean(-missing.pow(gamma) * log_probs, None, targets, weights)
    log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    return _weighted_mean(-(gamma * log_no).exp() * log_yes, -(gamma * log_yes).exp() * log_no, targets, weights)


def asymmetric_loss(logits, targets, weights, positive_gamma=0.0, negative_gamma=4.0, margin=0.05):
    """Focal loss with a gamma for each side, that forgets negatives of a probability below `margin`."""
    log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive = -(positive_gamma * log_no).exp() * log_yes
    # log(1 - max(p - margin, 0)) as log(min(1 - p + margin, 1)): finite where p rounds to 1
    log_shifted = torch.logaddexp(log_no, logits.new_full((), margin).log()).clamp(max=0)
    shifted = (-torch.expm1(log_shifted)).clamp(min=1e-7)  # as in focal_loss; some torch's clamp(max=0) lets 0 through
    return _weighted_mean(positive, -shifted.pow(negative_gamma) * log_shifted, targets, weights)


def auc_loss(logits, targets, is_multiclass, margin=1.0):
    """Squared lack of each positive to lead each negative of the batch by `margin`: a smooth stand-in for 1 - AUC.

    A pair (i, j) counts by its shares, target_i * (1 - target_j): on hard targets 1 or 0. Averaged over a column's
    pairs, then over the columns with both sides in the batch, 0 without any.
    """
    scores = logits
    if is_multiclass:  # log(p / (1 - p)) of each class's softmax probability p; but for the top class p is at most 1/2
        log_probs, top = functional.log_softmax(logits, dim=1), logits.argmax(dim=1, keepdim=True)
        log_others = torch.log1p(-log_probs.exp().clamp(max=0.9))
        log_others_of_top = log_probs.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
        scores = log_probs - log_others.scatter(1, top, log_others_of_top)
    pairs = targets.nan_to_num()[:, None] * (1 - targets).nan_to_num()  # (N positives, N negatives, C); nan is neither
    lacks = (margin - (scores[:, None] - scores)).clamp(min=0).square()
    num_pairs = pairs.sum(dim=(0, 1))
    columns = (lacks * pairs).sum(dim=(0, 1)) / num_pairs.where(num_pairs > 0, 1)
    return columns.sum() / (num_pairs > 0).sum().clamp(min=1)


def auc_bce_loss(logits, targets, weights, is_multiclass, auc_weight=1.0, bce_weight=1.0, margin=1.0):
    """`auc_weight` times the AUC surrogate, plus `bce_weight` times `bce`, of a multiclass task `cross_entropy`.

    Class weights reach the second part alone, which keeps the probabilities where they belong; the first orders them.
    """
    if is_multiclass:
        likelihood = cross_entropy_loss(logits, targets, weights)
    else:
        known, cross_entropy = (~targets.isnan()).float(), functional.binary_cross_entropy_with_logits
        each = cross_entropy(logits, targets.nan_to_num(), known, pos_weight=weights, reduction="sum")
        likelihood = each / known.sum().clamp(min=1)
    return auc_weight * auc_loss(logits, targets, is_multiclass, margin) + bce_weight * likelihood


# name: loss(logits, targets, **loss.kwargs) -> scalar; parameters named weights, is_multiclass and is_regression are
# given too
LOSSES = {
    "bce": bce_loss,
    "cross_entropy": cross_entropy_loss,
    "mse": mse_loss,  # Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, eq. 2; here averaged
    "mae": lambda logits, targets: functional.l1_loss(logits, targets),  # of regression's values, over all entries
    "huber": huber_loss,  # Huber, Robust Estimation of a Location Parameter, 1964
    "hinge": hinge_loss,  # Weston and Watkins, Support Vector Machines for Multi-Class Pattern Recognition, 1999
    "focal": focal_loss,  # Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002, eq. 4
    "asymmetric": asymmetric_loss,  # Ridnik et al., Asymmetric Loss, 2021, arXiv:2009.14119, eq. 4-7
    "auc": auc_loss,  # Gao and Zhou, On the Consistency of AUC Pairwise Optimization, 2015, arXiv:1208.0645, q = 2
    "auc_bce": auc_bce_loss,  # as the soft AUC loss beside BCE in BirdCLEF 2025; its AUC part is the one above
}
_PAIRWISE = ("auc", "auc_bce")  # they compare a batch's images, and read nan themselves
VALUE_LOSSES = ("mse", "mae", "huber")  # they take the values of task=regression
_RANGES = {"huber": {"delta": (0.001, None)}, "focal": {"gamma": (0, None)}}
_RANGES |= {"hinge": {"margin": (0, None)}, "auc": {"margin": (0, None)}}
_RANGES["auc_bce"] = dict.fromkeys(("auc_weight", "bce_weight", "margin"), (0, None))
_RANGES["asymmetric"] = {"positive_gamma": (0, None), "negative_gamma": (0, None), "margin": (0, 0.99)}


def check_loss(config):
    """Raise UserError for a loss that does not fit its kwargs, the task, weights or the schedule."""
    settings, task, schedule, train = config.loss, config.competition.task, config.schedule, config.train
    name, where = settings.name_for(task), f"loss.name={settings.name}"
    check_kwargs("loss.kwargs", LOSSES[name], settings.kwargs, name, **_RANGES.get(name, {}))
    if task == "regression" and name not in VALUE_LOSSES:
        raise UserError(f"{where}: takes logits of classes, a regression task has values; set loss.name=mse")
    if name == "mae" and task != "regression":
        raise UserError(f"{where}: takes the values of competition.task=regression; set loss.name=mse")
    if name in ("bce", "asymmetric") and task == "multiclass":
        raise UserError(f"{where}: a multiclass task has one class a row; set loss.name=cross_entropy")
    if name == "cross_entropy" and task != "multiclass":
        raise UserError(f"{where}: a {task} task has yes/no targets; set loss.name=bce")
    if (settings.balance or settings.class_weights) and "weights" not in inspect.signature(LOSSES[name]).parameters:
        reason = "compares pairs, which weights do not change" if name == "auc" else "takes no weights"
        raise UserError(f"{where}: {reason}; leave out loss.balance and weights")
    if name in _PAIRWISE and train.batch_size == 1:
        raise UserError(f"{where}: compares the images of a batch, of which train.batch_size=1 has one; raise it")
    plateau_on = schedule.kwargs.get("on", "loss") if schedule.name == "plateau" else None
    stop_on = train.early_stopping_kwargs.get("on") if train.early_stopping_epochs is not None else None
    for key, value in (("schedule.kwargs.on", plateau_on), ("train.early_stopping_kwargs.on", stop_on)):
        if name == "auc" and value == "loss":
            raise UserError(f"{key}=loss: is the log loss, which loss.name=auc does not lower; set {key}=score")


def build_loss(config, class_weights=None, target_scale=None):
    """Check the loss and return (logits, targets) -> scalar; class_weights: (C,), of `resolve_class_weights`.

    target_scale: (mean, std), each (C,), by which regression's targets are standardised; None: they are so already.
    """
    check_loss(config)
    settings, task = config.loss, config.competition.task
    function = LOSSES[settings.name_for(task)]
    taken = inspect.signature(function).parameters
    weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
    assert weights is None or "weights" in taken, f"{settings.name} takes no class weights"
    given = {"weights": weights, "is_multiclass": task == "multiclass", "is_regression": task == "regression"}
    given = settings.kwargs | {key: value for key, value in given.items() if key in taken}
    scale = [torch.as_tensor(one, dtype=torch.float32) for one in target_scale or ()]
    has_gaps = task in ("multilabel", "regression") and config.competition.missing == "drop"

    def loss(logits, targets):
        logits, keywords, home = logits.float(), given, targets.device  # where targets lie: on the CPU nothing waits
        if target_scale is not None:
            scale[:] = [to_device(one, home) for one in scale]
            targets = (targets - scale[0]) / scale[1]
        if weights is not None:
            given["weights"] = to_device(given["weights"], logits.device)  # a copy in the first step only
        # label smoothing: Szegedy et al., Rethinking the Inception Architecture, 2016, arXiv:1512.00567, section 7
        alternatives = targets.shape[1] if task == "multiclass" else 2
        targets = targets.float() * (1 - settings.label_smoothing) + settings.label_smoothing / alternatives
        if has_gaps and settings.name not in _PAIRWISE:  # columns of the others are independent
            is_known = ~targets.isnan()  # these entries become one column
            if weights is not None:
                shares = to_device(weights, home).expand_as(targets)[is_known][:, None]
                keywords = given | {"weights": to_device(shares, logits.device)}
            index = to_device(is_known.flatten().nonzero()[:, 0], logits.device)
            logits, targets = logits.flatten()[index][:, None], targets[is_known][:, None]
            if not len(targets):
                return logits.sum()  # 0
        return function(logits, to_device(targets, logits.device), **keywords)

    return loss


def add_auxiliary_loss(loss, factor, num_targets, names, mean, std, is_share):
    """Return (logits, targets), of (N, C + A) each -> scalar: the loss of C columns, plus a factor times that of A.

    Of these a column that is_share, (A,) bool, has its binary cross-entropy, another the squared error of values
    standardised by mean and std, (A,), over the cells that are known; the columns of one name, the classes of a column
    of words, weigh as one.
    """
    columns = mean, std, [1 / names.count(name) for name in names], is_share
    columns = [torch.as_tensor(one, dtype=torch.float32) for one in columns]

    def joint_loss(logits, targets):
        main = loss(logits[:, :num_targets], targets[:, :num_targets])
        logits, targets = logits[:, num_targets:].float(), to_device(targets[:, num_targets:], logits.device)
        columns[:] = [to_device(one, logits.device) for one in columns]  # a copy in the first step only
        (shift, scale, weight, is_probability), is_known = columns, ~targets.isnan()
        targets = torch.where(is_known, (targets - shift) / scale, 0)
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        errors = torch.where(is_probability > 0, cross_entropy, (logits - targets).square()) * is_known
        counts = is_known.sum(dim=0)
        weight = weight * (counts > 0)
        auxiliary = (errors.sum(dim=0) / counts.clamp(min=1) * weight).sum() / weight.sum().clamp(min=1e-6)
        return main + factor * auxiliary

    return joint_loss


def resolve_class_weights(settings, targets, task):
    """Return float32 (C,): loss.class_weights, or with loss.balance from the training targets (N, C) numpy; or None."""
    if weights := settings.class_weights:
        if len(weights) != targets.shape[1]:
            found = f"{len(weights)} given, {targets.shape[1]} needed"
            advice = f"give one for each {'class' if task == 'multiclass' else 'target'}"
            raise UserError(f"loss.class_weights={weights}: {found}; {advice}")
        return np.array(weights, dtype=np.float32)
    if not settings.balance:
        return None
    # scikit-learn's N / (C * rows of a class), or a column's negatives / positives; 1 where one of them is 0
    counts, num_known = np.nansum(targets, axis=0, dtype=np.float64), (~np.isnan(targets)).sum(axis=0)
    wanted = np.full_like(counts, len(targets) / len(counts)) if task == "multiclass" else num_known - counts
    return np.divide(wanted, counts, out=np.ones_like(counts), where=(wanted > 0) & (counts > 0)).astype(np.float32)


def consistency_loss(logits_of_views, task):
    """Jensen-Shannon divergence of V views, (V, N, C), in nats (Hendrycks et al., 2020, arXiv:1912.02781, eq. 1)."""
    logits = logits_of_views.float()
    if task == "multiclass":
        log_probs = functional.log_softmax(logits, dim=2)
    else:
        log_probs = torch.stack([functional.logsigmoid(logits), functional.logsigmoid(-logits)], dim=-1)
    log_mixture = log_probs.logsumexp(dim=0) - np.log(len(logits))
    divergence = (log_probs.exp() * (log_probs - log_mixture)).sum(dim=-1).mean()
    return divergence.clamp(min=0)  # equal views may round to just below


def probabilities(logits, task):
    """Return softmax over the classes for multiclass, else a sigmoid for each target; float32, same shape.

    Regression's values stay as they are.
    """
    return logits.float() if task == "regression" else _probs(logits.float(), task == "multiclass")


def _probs(logits, is_multiclass):
    return torch.softmax(logits, dim=1) if is_multiclass else torch.sigmoid(logits)


def _error_mean(errors, targets, weights, is_multiclass):
    """Mean of the errors (N, C) of probabilities; a soft target weighs the whole of its row or entry."""
    if is_multiclass:
        return _weighted_mean(errors.mean(dim=1, keepdim=True), None, targets, weights)
    return _weighted_mean(errors, errors, targets, weights)


def _weighted_mean(positive, negative, targets, weights):
    """Mean over entries of both sides' losses (N, C), or, if `negative` is None, over rows of the classes' losses."""
    shares = targets if weights is None else targets * weights
    if negative is None:
        return (shares * positive).sum() / (len(targets) if weights is None else shares.sum())
    return (shares * positive + (1 - targets) * negative).mean()
