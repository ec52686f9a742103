"""Lightning with torchvision's transforms, as in its documentation."""

import lightning
import timm
import torch
from torchmetrics.classification import BinaryAUROC

from benchmarks.systems.task import run_as_program
from benchmarks.systems.torchvision_loader import build_loaders


class Classifier(lightning.LightningModule):
    """A timm network with Adam and a one-cycle rate; the head's rate is ten times the backbone's, as ours is."""

    def __init__(self, task, channels_last):
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = timm.create_model(task.backbone, num_classes=1, **task.timm_arguments).to(
            memory_format=self.memory_format
        )
        self.auc = BinaryAUROC()

    def forward(self, images):
        return self.network(images.contiguous(memory_format=self.memory_format)).squeeze(1)

    def training_step(self, batch, _):
        images, labels = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(self(images), labels)

    def validation_step(self, batch, _):
        images, labels = batch
        self.auc.update(self(images), labels.int())
        self.log("auc", self.auc)

    def configure_optimizers(self):
        head = list(self.network.get_classifier().parameters())
        body = [one for one in self.network.parameters() if all(one is not other for other in head)]
        optimizer = torch.optim.Adam([{"params": body}, {"params": head}])
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=[3e-4, 3e-3], total_steps=self.trainer.estimated_stepping_batches
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TimerCallback(lightning.Callback):
    """Calls the timer; Lightning validates between an epoch's last batch and its end."""

    def __init__(self, timer):
        self.timer = timer

    def on_train_epoch_start(self, *_):
        self.timer.start_batches()

    def on_validation_start(self, *_):
        self.timer.end_batches()

    def on_validation_end(self, *_):
        self.timer.end_epoch()


def run(task, timer):
    """Fit with the trainer's defaults (logger and checkpoints, as ours), but without costs that ours does not have."""
    lightning.seed_everything(task.seed, workers=True)
    is_cuda = task.device != "cpu" and torch.cuda.is_available()
    precision = task.choose("precision", "bf16" if is_cuda else "fp32")
    channels_last = task.choose("channels_last", True)
    train_loader, val_loader = build_loaders(task)
    trainer = lightning.Trainer(
        max_epochs=task.epochs,
        accelerator="gpu" if is_cuda else "cpu",
        devices=1,
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}[precision],
        callbacks=[TimerCallback(timer)],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=".",
    )
    trainer.fit(Classifier(task, channels_last), train_loader, val_loader)
    return {
        "num_images": len(train_loader.dataset),
        "auc": float(trainer.callback_metrics["auc"]),
        "precision": precision,
        "channels_last": channels_last,
        "num_workers": train_loader.num_workers,
    }


if __name__ == "__main__":
    run_as_program(run)
