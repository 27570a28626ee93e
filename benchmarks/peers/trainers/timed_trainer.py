"""A trainer for nnU-Net that ends in time, found by the variable `nnUNet_extTrainer`; runs in nnU-Net's environment."""

from __future__ import annotations

import os
import time

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

TIMED_STEPS = 10
STEPS_OF_AN_EPOCH = 20


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's own training, with as many epochs as `PEER_SECONDS` hold.

    Its learning rate falls over the epochs, so that their number has to be known first: the first steps are timed. What
    nnU-Net does unasked after training, the prediction of all training cases with mirroring, is left out: it takes as
    long again and changes nothing of the model.
    """

    def __init__(  # nnU-Net looks these names up
        self, plans: dict, configuration: str, fold: int | str, dataset_json: dict, device: torch.device
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.began = time.monotonic()
        self.num_iterations_per_epoch = STEPS_OF_AN_EPOCH
        self.num_val_iterations_per_epoch = 1
        self.num_epochs = 1
        self.save_every = 10**9

    def on_train_start(self) -> None:
        """Time some steps, and fix the number of epochs by them."""
        super().on_train_start()
        self.train_step(next(self.dataloader_train))  # the first one also sets things up
        started = time.monotonic()
        for _ in range(TIMED_STEPS):
            self.train_step(next(self.dataloader_train))
        of_a_step = (time.monotonic() - started) / TIMED_STEPS
        left = float(os.environ["PEER_SECONDS"]) - (time.monotonic() - self.began)
        self.num_epochs = max(1, int(left / (of_a_step * (STEPS_OF_AN_EPOCH + 1))))
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        self.print_to_log_file(f"{of_a_step:.2f} s a step, {self.num_epochs} epochs of {STEPS_OF_AN_EPOCH}")

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Left out."""
