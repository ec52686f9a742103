"""What a host makes of a submission: it refuses a wrong file, and scores a right one by the competition's metric.

The metrics are scikit-learn's, or the host's published formula written out, and share nothing with src.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn import metrics

from tests.competitions.folders import PLANET, PLANT_2020, PLANT_2021, RANZCR


class Refused(Exception):
    """Why the host takes no submission."""


def mean_roc_auc(truth, values):
    return metrics.roc_auc_score(truth, values, average="macro")


def auc_above_80_tpr(truth, values):
    """ISIC 2024's, by the curve itself: the area between it and a true-positive rate of .8."""
    fpr, tpr, _ = metrics.roc_curve(truth.ravel(), values.ravel(), drop_intermediate=False)
    area = 0.0
    for left, right, low, high in zip(fpr[:-1], fpr[1:], tpr[:-1], tpr[1:], strict=True):
        if right > left and high > 0.8:
            start = left if low >= 0.8 else left + (0.8 - low) / (high - low) * (right - left)
            area += (right - start) * (max(low, 0.8) + high - 1.6) / 2
    return area


def probabilistic_f1(truth, values):
    hits = (truth * values).sum()
    precision, recall = hits / values.sum(), hits / truth.sum()
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def kappa(truth, values):
    """One less the mean squared error over that of all pairs of a true and a predicted grade."""
    return 1 - ((truth - values) ** 2).mean() / (np.subtract.outer(truth.ravel(), values.ravel()) ** 2).mean()


def mean_f(beta):
    def score(truth, values):
        found = []
        for right, given in zip(truth, values, strict=True):
            precision, recall = len(right & given) / max(len(given), 1), len(right & given) / len(right)
            both = beta**2 * precision + recall
            found.append((1 + beta**2) * precision * recall / both if both else 0.0)
        return float(np.mean(found))

    return score


@dataclass(frozen=True)
class Host:
    """The id's column, those to predict, and what their cells hold: chances, grades, or tags with blanks between."""

    id: str
    columns: list
    score: object = mean_roc_auc
    cells: str = "chances"
    names: tuple = ()  # tags or grades that the host knows


HOSTS = {
    "aerial-cactus-identification": Host("id", ["has_cactus"]),
    "histopathologic-cancer-detection": Host("id", ["label"]),
    "siim-isic-melanoma-classification": Host("image_name", ["target"]),
    "isic-2024-challenge": Host("isic_id", ["target"], auc_above_80_tpr),
    "ranzcr-clip-catheter-line-classification": Host("StudyInstanceUID", RANZCR),
    "plant-pathology-2020-fgvc7": Host("image_id", PLANT_2020),
    "plant-pathology-2021-fgvc8": Host("image", ["labels"], mean_f(1), "tags", tuple(PLANT_2021)),
    "invasive-species-monitoring": Host("name", ["invasive"]),
    "seti-breakthrough-listen": Host("id", ["target"]),
    "rsna-miccai-brain-tumor-radiogenomic-classification": Host("BraTS21ID", ["MGMT_value"]),
    "rsna-breast-cancer-detection": Host("prediction_id", ["cancer"], probabilistic_f1),
    "aptos2019-blindness-detection": Host("id_code", ["diagnosis"], kappa, "grades", tuple("01234")),
    "planet-understanding-the-amazon-from-space": Host("image_name", ["tags"], mean_f(2), "tags", tuple(PLANET)),
    "chest-xray-pneumonia": Host("id", ["PNEUMONIA"]),
}


def grade(name, path, solution):
    """Return the score of a submission; the rows and the columns may be in any order.

    Raises:
        Refused: a column, row or value is missing, unknown, doubled or outside what the host takes.
    """
    host = HOSTS[name]
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [one for one in (host.id, *host.columns) if one not in rows]:
        raise Refused(f"column {missing[0]} is missing")
    if extra := [one for one in rows if one not in (host.id, *host.columns)]:
        raise Refused(f"column {extra[0]} is unknown")
    wanted = solution[host.id].astype(str)
    if (is_repeated := rows[host.id].duplicated()).any():
        raise Refused(f"id {rows[host.id][is_repeated].iloc[0]} is there twice")
    if lost := sorted(set(wanted) - set(rows[host.id])):
        raise Refused(f"id {lost[0]} is missing")
    if extra := sorted(set(rows[host.id]) - set(wanted)):
        raise Refused(f"id {extra[0]} is unknown")
    cells = rows.set_index(host.id).loc[wanted, host.columns]
    if host.cells == "tags":
        return host.score(*([_split(cell, host) for cell in one.iloc[:, 0]] for one in (solution[host.columns], cells)))
    if host.cells == "grades":
        values = cells.map(lambda cell: _read_grade(cell, host)).to_numpy()
    else:
        values = cells.map(_read_chance).to_numpy()
    return float(host.score(solution[host.columns].to_numpy(), values))


def _read_chance(cell):
    try:
        value = float(cell)
    except ValueError:
        raise Refused(f"{cell!r} is no number") from None
    if not 0 <= value <= 1:
        raise Refused(f"{cell} is outside 0 to 1")
    return value


def _read_grade(cell, host):
    if cell not in host.names:
        raise Refused(f"{cell!r} is no grade")
    return int(cell)


def _split(cell, host):
    tags = cell.split(" ")
    if unknown := [one for one in tags if one not in host.names]:
        raise Refused(f"{unknown[0]!r} is no tag")
    return set(tags)
