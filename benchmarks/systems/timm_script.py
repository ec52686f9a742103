"""timm as its train.py uses it, which the package does not hold: loader with prefetcher, mixing, optimizer, loss."""

import timm
import torch
from PIL import Image
from timm.data import FastCollateMixup, create_loader, resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, NativeScaler

from benchmarks.systems.task import run_as_program


class Images(torch.utils.data.Dataset):
    """(image, label) of the rows of a table with columns path and label; `create_loader` sets the transform."""

    def __init__(self, rows):
        self._paths, self._labels = rows["path"].to_numpy(dtype=str), rows["label"].to_numpy(dtype="int64")
        self.transform = None

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, row):
        with Image.open(self._paths[row]) as image:
            return self.transform(image.convert("RGB")), self._labels[row]


def run(task, timer):
    """Train without validation; the random crop, flip and color jitter are the script's defaults."""
    torch.manual_seed(task.seed)
    is_cuda = task.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if is_cuda else "cpu")
    precision = task.choose("precision", "bf16" if is_cuda else "fp32")
    channels_last = task.choose("channels_last", True)
    torch.backends.cudnn.benchmark = True  # as the script sets it
    network = timm.create_model(task.backbone, num_classes=2, **task.timm_arguments).to(device)
    network = network.to(memory_format=torch.channels_last) if channels_last else network
    data = resolve_data_config({"input_size": (3, task.image_size, task.image_size)}, model=network)
    dataset, num_workers = Images(task.split()[0]), task.choose("num_workers", 4)
    loader = create_loader(
        dataset, data["input_size"], task.batch_size, is_training=True, use_prefetcher=True, hflip=0.5,
        color_jitter=0.4, mean=data["mean"], std=data["std"], num_workers=num_workers, pin_memory=is_cuda,
        collate_fn=FastCollateMixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=2), device=device,
        persistent_workers=num_workers > 0,
    )  # fmt: skip
    optimizer = create_optimizer_v2(network, opt="adamw", lr=3e-4, weight_decay=0.05)
    schedule, loss_function = CosineLRScheduler(optimizer, t_initial=task.epochs), SoftTargetCrossEntropy()
    scaler, losses, num_images = NativeScaler() if precision == "fp16" else None, AverageMeter(), 0
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    for epoch in range(task.epochs):
        network.train()
        timer.start_batches()
        num_images = 0
        for images, targets in loader:
            images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
            with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
                loss = loss_function(network(images), targets)
            if scaler:
                scaler(loss, optimizer, parameters=network.parameters())
            else:
                loss.backward()
                optimizer.step()
            optimizer.zero_grad()
            num_images += len(images)
        losses.update(loss.item(), num_images)
        timer.end_batches()
        schedule.step(epoch + 1)
        timer.end_epoch()
    return {
        "num_images": num_images, "precision": precision, "channels_last": channels_last, "num_workers": num_workers,
    }  # fmt: skip


if __name__ == "__main__":
    run_as_program(run)
