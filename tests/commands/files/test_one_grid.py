"""One tolerance in every command: 0.01 voxels are rounding, 0.5 are told in millimetres, more is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_sets import called, cube, save, shifted, trained, write_set

from medseg.portable.geometry import check_offset, offset
from medseg.portable.io.read import read_header

TOLD = "(0.3 voxels) off"


@pytest.mark.parametrize(
    ("mm", "outcome"), [(0.009, "silent"), (0.3, "told"), (0.5, "told"), (0.51, "refused"), (40, "refused")]
)
def test_the_measure_is_voxels_of_the_image(mm, outcome, tmp_path):
    """Of voxels of 1 mm along z; with voxels of 5 mm a shift of 2.5 mm is the half."""
    grid = read_header(save(tmp_path / "a.nii.gz", cube()))
    other = read_header(save(tmp_path / "b.nii.gz", cube(), shifted(mm)))
    assert offset(grid, other).voxels == pytest.approx(mm)
    thick = np.diag([1.0, 1, 5, 1])
    moved = thick.copy()
    moved[2, 3] = 2.5
    grid_5, other_5 = (
        read_header(save(tmp_path / f"{n}.nii.gz", cube(), each)) for n, each in enumerate((thick, moved))
    )
    assert (offset(grid_5, other_5).voxels, offset(grid_5, other_5).mm) == (pytest.approx(0.5), pytest.approx(2.5))
    if outcome == "refused":
        with pytest.raises(Exception, match=rf"lies up to {mm:.3g} mm \({mm:.3g} voxels\) off .* accepted is 0.5"):
            check_offset(grid, other)
    else:
        assert bool(check_offset(grid, other)) == (outcome == "told")


def test_storage_order_is_no_offset(tmp_path):
    """The same voxels with x mirrored and y and z exchanged."""
    grid = read_header(save(tmp_path / "a.nii.gz", cube()))
    turned = np.array([[-1.0, 0, 0, 19], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    other = read_header(save(tmp_path / "b.nii.gz", cube().transpose(0, 2, 1)[::-1], turned))
    assert check_offset(grid, other) == ""


@pytest.mark.parametrize(("mm", "code"), [(0.009, 0), (0.3, 0), (0.8, 2)])
def test_every_command_takes_and_refuses_the_same(mm, code, tmp_path, capfd):
    manifest = write_set(tmp_path, cube(), shifted(mm))
    save(tmp_path / "pred/c0.nii.gz", cube(), shifted(mm))
    save(tmp_path / "ref/c0.nii.gz", cube())
    files = ["--image", tmp_path / "c0.nii.gz", "--annotation", tmp_path / "pred/c0.nii.gz"]
    found = {
        "check": called(capfd, "data", "check", manifest),
        "train": trained(capfd, manifest, tmp_path / "run"),
        "evaluate": called(capfd, "evaluate", "-p", tmp_path / "pred", "-r", tmp_path / "ref", "-o", tmp_path / "t"),
        "consensus": called(capfd, "consensus", "--method", "majority", *files, "-o", tmp_path / "fused"),
    }
    assert {name: found[name][0] for name in found} == {**dict.fromkeys(found, code), "check": int(code > 0)}
    distance = f"{mm:.3g} mm ({mm:.3g} voxels)"
    assert {name for name in found if distance in found[name][1]} == (set(found) if mm > 0.01 else set())


@pytest.mark.parametrize(("mm", "code"), [(0.009, 0), (0.3, 0), (0.8, 2)])
def test_channels_of_one_image_too(mm, code, tmp_path, capfd):
    write_set(tmp_path, cube())
    cases = []
    for number in range(2):
        save(tmp_path / f"t2_{number}.nii.gz", cube(50, "i2") + np.arange(16, dtype="i2"), shifted(mm))
        files = [f"c{number}.nii.gz", f"t2_{number}.nii.gz"]
        cases.append({"case": f"c{number}", "image": files, "label": f"c{number}_label.nii.gz"})
    content = {"modality": ["T1", "T2"], "labels": {"0": "background", "1": "cube"}, "training": cases}
    manifest = tmp_path / "m2.json"
    manifest.write_text(json.dumps(content))
    distance = f"{mm:.3g} mm ({mm:.3g} voxels)"
    checked = called(capfd, "data", "check", manifest)
    ran = trained(capfd, manifest, tmp_path / "run")
    assert (checked[0], ran[0]) == (int(code > 0), code)
    assert [distance in each[1] for each in (checked, ran)] == [mm > 0.01] * 2
    if code:
        return
    model = ("--model", tmp_path / "run", "--section", "training")
    code, said = called(capfd, "predict", *model, "--input", manifest, "--output", tmp_path / "p")
    assert (code, distance in said) == (0, mm > 0.01)
