"""Image files -> batches of raw pixels."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else importing albumentations asks the network for a newer version
