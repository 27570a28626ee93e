"""Every shipped pipeline for two iterations on generated data, to a bundle, to a prediction."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import yaml
from tiny import write_dataset

from medseg.errors import ConfigError
from medseg.methods import build
from medseg.workflows.predict.run import predict
from medseg.workflows.train import settings
from medseg.workflows.train.run import train
from medseg.workflows.train.settings import shipped

SMALL = ["stages.0.schedule.iterations=2", "stages.0.network.width=4", "data.patch=[16,16,16]", "data.overlap=0.25",
         "data.spacing_mm=[1.5,1.5,1.5]", "stages.0.schedule.workers=0"]  # fmt: skip


@pytest.mark.parametrize("task", shipped())
def test_it_runs_to_a_prediction(task, tmp_path):
    manifest = write_dataset(tmp_path / "data", validation=0, labeled=4)
    run = train(task, manifest, tmp_path / "run", overrides=SMALL)
    report = predict(run, manifest, tmp_path / "out", section="test")
    assert not report["failed"]
    image = nib.load(tmp_path / "data" / "case6.nii.gz")
    result = nib.load(tmp_path / "out" / "case6.nii.gz")
    assert result.shape == image.shape
    assert np.allclose(result.affine, image.affine)
    assert set(np.unique(result.dataobj)) <= {0, 1, 2}


FORMER = {"dice": 1.0, "sure_background": 0.8, "sure_rounds": 1}
PRESENT = {"dice": 1.0, "background_confidence": 0.8, "background_confidence_rounds": 1}


def write_pipeline(path, options):
    path.write_text(yaml.safe_dump({"name": "x", "stages": [{"method": {"name": "dmpct", "options": options}}]}))
    return str(path)


def test_former_names_of_options_work_with_one_warning_each(tmp_path, capfd):
    task = write_pipeline(tmp_path / "earlier.yaml", FORMER)
    for _ in range(2):  # a command reads its pipeline several times
        options = settings.load(task).stages[0].method.options
        assert options == PRESENT
    assert capfd.readouterr().err.splitlines() == [
        f"warning: {task}: the option sure_background of method dmpct is now called background_confidence; "
        "use that name",
        f"warning: {task}: the option sure_rounds of method dmpct is now called background_confidence_rounds; "
        "use that name",
    ]
    method = build("dmpct", None, classes=3, **options)
    assert (method.background_confidence, method.background_confidence_rounds) == (0.8, 1)


def test_former_names_of_options_work_with_set(tmp_path):
    task = write_pipeline(tmp_path / "new.yaml", PRESENT)
    changed = settings.load(task, ["stages.0.method.options.sure_background=0.5"])
    assert changed.stages[0].method.options == {**PRESENT, "background_confidence": 0.5}
    with pytest.raises(ConfigError, match="no option 'sure_foreground'; it has dice, fusion"):
        build("dmpct", None, classes=3, sure_foreground=0.5)


def test_a_renamed_option_leaves_the_hash_of_earlier_runs(tmp_path):
    for options in (FORMER, PRESENT):
        pipeline = settings.load(write_pipeline(tmp_path / "x.yaml", options))
        assert settings.hashed_values(pipeline)["stages"][0]["method"]["options"] == FORMER
