"""Optimiser and learning-rate schedule from plain settings."""

from __future__ import annotations

from math import cos, pi

import torch

from medseg.config.pipeline import Schedule
from medseg.errors import ConfigError
from medseg.method import Method
from medseg.portable.networks.encoder_decoder import EncoderDecoder


def make_optimizer(method: Method, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD or AdamW over the method's own parameter groups.

    Raises:
        ConfigError: encoders are to learn at a rate of their own, and no network has an encoder that can be told apart.
    """
    groups = method.parameter_groups(schedule.lr)
    if schedule.encoder_lr != 1:
        groups = slow_encoders(method, groups, schedule.encoder_lr)
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.lr, weight_decay=schedule.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=schedule.lr,
        momentum=schedule.momentum,
        nesterov=schedule.nesterov,
        weight_decay=schedule.weight_decay,
    )


def slow_encoders(method: Method, groups: list[dict], factor: float) -> list[dict]:
    """Parameter groups in which encoders have their own, with their learning rate times a factor; they come last.

    With a factor of 0 encoders are frozen: they are in no group, and nothing computes their gradient. Their batch norm
    still follows the images, unless the network keeps its statistics (`frozen_statistics` of `efficientnet_lite`).

    Raises:
        ConfigError: no network has an encoder that can be told apart.
    """
    encoders: set[int] = set()
    for module in method.modules():
        if isinstance(module, EncoderDecoder):
            parts = [module.get_submodule(name) for name in module.encoder_parts]
            encoders |= {id(parameter) for part in parts for parameter in part.parameters()}
    if not encoders:
        raise ConfigError(
            f"schedule.encoder_lr is {factor:g}, and no encoder can be told apart in the network",
            hint="accepted are methods that see features, and the network efficientnet_lite",
        )
    others, slow = [], []
    for group in groups:
        of_encoder = [parameter for parameter in group["params"] if id(parameter) in encoders]
        rest = [parameter for parameter in group["params"] if id(parameter) not in encoders]
        if rest:
            others.append({**group, "params": rest})
        if of_encoder and not factor:
            for parameter in of_encoder:
                parameter.requires_grad_(False)
        elif of_encoder:
            slow.append({**group, "params": of_encoder, "lr": group["lr"] * factor})
    return others + slow


def lr_factor(schedule: Schedule, iteration: int) -> float:
    """What the learning rate is multiplied with at a 0-based iteration.

    step: `decay_factor` to the number of `decay_steps` that are over. poly: `(1 - t)^decay_power`.
    cosine: `(1 + cos(pi t)) / 2`. `t` is the fraction of the run that is over.
    """
    fraction = min(iteration / schedule.iterations, 1.0)
    if schedule.decay == "step":
        over = sum(iteration >= round(step * schedule.iterations) for step in schedule.decay_steps)
        return schedule.decay_factor**over
    if schedule.decay == "poly":
        return (1.0 - fraction) ** schedule.decay_power
    if schedule.decay == "cosine":
        return 0.5 * (1.0 + cos(pi * fraction))
    return 1.0


def make_scheduler(optimizer: torch.optim.Optimizer, schedule: Schedule) -> torch.optim.lr_scheduler.LambdaLR:
    """One step per iteration."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda iteration: lr_factor(schedule, iteration))
