"""Bundles in MONAI's client for federated learning: two sites, two rounds of averaging."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import BALL
from tiny import write_dataset

from medseg.bundle.bundle import open_bundle

ROUNDS = """
import json, sys
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

bundle, sites = sys.argv[1], sys.argv[2:]
clients = []
for site in sites:
    given = {"dataset_dir": site, "val_interval": 1, "device": "$torch.device('cpu')"}
    client = MonaiAlgo(bundle_root=bundle, send_weight_diff=False, train_kwargs=given, eval_kwargs=dict(given))
    client.initialize({ExtraItems.CLIENT_NAME: site})
    clients.append(client)
shared = torch.load(bundle + "/models/model.pt", weights_only=True)
moved = []
for _ in range(2):
    sent = ExchangeObject(weights={k: v.numpy() for k, v in shared.items()})
    answers = []
    for client in clients:
        client.train(sent, {})
        answers.append(client.get_weights({}).weights)
    mean = {k: sum(torch.as_tensor(a[k]).double() for a in answers) / len(answers) for k in shared}
    mean = {k: v.to(shared[k].dtype) for k, v in mean.items()}
    moved.append(max(float((mean[k].double() - shared[k].double()).abs().max()) for k in shared))
    shared = mean
judged = [c.evaluate(ExchangeObject(weights={k: v.numpy() for k, v in shared.items()}), {}).metrics for c in clients]
torch.save(shared, "averaged.pt")
print("FOUND", json.dumps({"moved": moved, "metrics": [sorted(m) for m in judged]}))
"""


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> list[Path]:
    """Two hospitals with a Decathlon list each."""
    found = []
    for number in range(2):
        path = write_dataset(tmp_path_factory.mktemp("site") / "data", unlabeled=0, test=0, seed=number)
        (path.parent / "dataset.json").write_text(json.dumps(json.loads(path.read_text())))
        found.append(path.parent)
    return found


def test_two_sites_average_two_rounds(sites, train, tmp_path):
    bundle = shutil.copytree(train(BALL) / "bundle", tmp_path / "bundle")
    # as `python -m monai.bundle` does: the bundle's folder is on the path, so that its scripts are found
    environment = {**os.environ, "PYTHONPATH": str(bundle)}
    command = [sys.executable, "-c", ROUNDS, str(bundle), *map(str, sites)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))[6:])
    assert all(step > 0 for step in found["moved"]), "both rounds have moved the weights"
    assert all("mean_dice" in str(metrics) for metrics in found["metrics"])
    averaged = torch.load(tmp_path / "averaged.pt", weights_only=True)
    assert open_bundle(bundle).network.load_state_dict(averaged)
