"""The cache of preprocessed volumes: right voxels, made once, whole or absent, with every bad file named."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg import portable
from medseg.config.pipeline import DataSpec, Intensity
from medseg.data.cache import VolumeCache
from medseg.data.cached_volume import MOST_VOXELS, some_voxels
from medseg.errors import DataError, MedsegError, OutputError
from medseg.manifest.manifest import Manifest
from medseg.records import RECORD, read_record

SHAPE = (12, 10, 8)
AFFINE = np.diag([2.0, 1.0, 3.0, 1.0])
AFFINE[:3, 3] = (-10, 5, 7)


def spec(**changes):
    settings = {
        "spacing_mm": (2, 1, 3),
        "intensity": Intensity(kind="window", low=0, high=100, mean=50, std=25),
    }
    return DataSpec(
        labels={0: "background", 3: "a", 7: "b"}, modality=("CT",), patch=(4, 4, 4), **{**settings, **changes}
    )


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path.relative_to(path.parent.parent))


def image_of(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(0, 100, shape).astype(np.float32)


def label_of(seed=0, shape=SHAPE, values=(0, 3, 7)):
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), shape)


def manifest(folder: Path, labels=None, affine=AFFINE, **keys) -> Manifest:
    """Three cases; `labels` replaces the label of the second."""
    cases = []
    for i in range(3):
        label = label_of(i) if labels is None or i != 1 else labels
        cases.append({
            "image": save(folder / f"images/c{i}.nii.gz", image_of(i)),
            "label": save(folder / f"labels/c{i}.nii.gz", label, affine if i == 1 else AFFINE),
        })  # fmt: skip
    content = {
        "labels": {"0": "background", "3": "a", "7": "b"},
        "modality": {"0": "CT"},
        "training": cases,
        **keys,
    }
    return Manifest.build(content, folder / "m.json")


def prepare(folder, m, data=None, **keys):
    return VolumeCache(folder / "cache").prepare(m, m.training, data or spec(), **keys)


def files_of(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted((folder / "cache").rglob("*")) if p.is_file()}


def test_voxels_labels_and_facts(tmp_path):
    volumes = prepare(tmp_path, manifest(tmp_path))
    for i, v in enumerate(volumes):
        assert (v.name, v.shape, v.channels) == (f"c{i}", SHAPE, 1)
        np.testing.assert_allclose(v.image[0], (image_of(i) - 50) / 25, atol=2e-3)
        np.testing.assert_array_equal(v.label, np.searchsorted([0, 3, 7], label_of(i)))
        assert (v.image.dtype, v.label.dtype) == (np.float16, np.uint8)
        assert v.spacing_mm == (2, 1, 3)
        np.testing.assert_allclose(v.affine, AFFINE)
        assert v.background == (v.image.min(),)
        assert sorted(v.foreground) == [1, 2]
        for c, voxels in v.foreground.items():
            assert (v.label[tuple(voxels.T)] == c).all()
            assert len(np.unique(voxels, axis=0)) == (v.label == c).sum()
        assert v.annotated is None


def test_second_time_nothing_is_read(tmp_path):
    m = manifest(tmp_path)
    first, calls = prepare(tmp_path, m), []
    before = files_of(tmp_path)
    for i in range(3):  # same size and time of change, but no image any more
        path = m.images(m.training[i])[0]
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = prepare(tmp_path, m, progress=lambda *a: calls.append(a))
    assert files_of(tmp_path) == before
    assert not calls
    assert [v.image_path for v in again] == [v.image_path for v in first]


def test_changed_files_and_plans_are_made_anew(tmp_path):
    m, calls = manifest(tmp_path), []
    first = prepare(tmp_path, m)
    save(tmp_path / "images/c1.nii.gz", image_of(9))
    second = prepare(tmp_path, m, progress=lambda *a: calls.append(a))
    assert calls == [(1, 1)]
    np.testing.assert_allclose(second[1].image[0], (image_of(9) - 50) / 25, atol=2e-3)
    assert second[0].image_path == first[0].image_path
    coarse = prepare(tmp_path, m, spec(spacing_mm=(4, 2, 3)))
    assert coarse[0].shape == (6, 5, 8) == coarse[0].label.shape
    other = DataSpec(**{**spec().model_dump(), "labels": {0: "background", 3: "a", 5: "x", 7: "b"}})
    assert prepare(tmp_path, m, other)[0].label.max() == 3


def test_an_entry_says_what_it_was_made_of(tmp_path):
    m = manifest(tmp_path)
    entry = prepare(tmp_path, m)[1].image_path.parent
    record = read_record(entry / RECORD)
    assert record["key"].startswith(entry.name)
    assert [name for name, *_ in record["inputs"]["files"]] == [
        str(m.images(m.training[1])[0]),
        str(m.label(m.training[1])),
    ]
    assert record["settings"]["channels"] == 1


def test_voxels_beside_a_header_count_too(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(image_of(0).T)
    sitk.WriteImage(image, str(tmp_path / "c.mhd"))
    case = {"image": "c.mhd"}
    content = {"labels": {"0": "background", "3": "a", "7": "b"}, "modality": {"0": "CT"}, "unlabeled": [case]}
    m = Manifest.build(content, tmp_path / "m.json")

    def first_voxels():
        return VolumeCache(tmp_path / "cache").prepare(m, m.unlabeled, spec())[0].image.copy()

    before = first_voxels()
    sitk.WriteImage(image + 50, str(tmp_path / "d.mhd"))
    (tmp_path / "d.raw").replace(tmp_path / "c.raw")
    expected = np.minimum(before + 2, 2)  # 50 HU are two standard deviations of 25; clipped at 100 HU
    np.testing.assert_allclose(first_voxels(), expected, atol=4e-3)


@pytest.mark.parametrize("damage", ["truncate", "remove", "json", "empty", "foreign"])
def test_damaged_entries_are_made_anew(tmp_path, damage):
    m = manifest(tmp_path)
    entry = prepare(tmp_path, m)[1].image_path.parent
    if damage == "truncate":
        (entry / "image.npy").write_bytes((entry / "image.npy").read_bytes()[:-7])
    elif damage == "remove":
        (entry / "label.npy").unlink()
    elif damage == "json":
        (entry / "entry.json").write_text('{"shape": [1, 2')
    elif damage == "empty":
        shutil.rmtree(entry)
        entry.mkdir()
    else:
        (entry / "entry.json").write_text(json.dumps({"shape": [1], "bytes": {}}))
    calls = []
    v = prepare(tmp_path, m, progress=lambda *a: calls.append(a))[1]
    assert calls == [(1, 1)]
    np.testing.assert_array_equal(v.label, np.searchsorted([0, 3, 7], label_of(1)))


@pytest.mark.parametrize("file", ["resample.py", "io/read.py", "io/nifti/reader.py"])
def test_code_that_reads_otherwise_makes_volumes_anew(tmp_path, monkeypatch, file):
    copy = shutil.copytree(Path(portable.__file__).parent, tmp_path / "portable")
    monkeypatch.setattr(portable, "__file__", str(copy / "__init__.py"))
    m = manifest(tmp_path)
    prepare(tmp_path, m)
    before = files_of(tmp_path)
    prepare(tmp_path, m)
    assert files_of(tmp_path) == before
    with (copy / file).open("a") as source:
        source.write("# other\n")
    prepare(tmp_path, m)
    assert len(files_of(tmp_path)) == 2 * len(before)


def test_leftovers_of_killed_processes_are_cleared(tmp_path):
    m = manifest(tmp_path)
    code = (
        "import os, sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "import test_cache as t; from medseg.data import cached_volume as volume\n"
        "write = volume.write\n"
        "def stuck(folder, *a, **k):\n"
        "    write(folder, *a, **k); print('writing', flush=True); time.sleep(60)\n"
        "volume.write = stuck\n"
        "t.prepare(Path(sys.argv[1]), t.Manifest.load(sys.argv[3]))\n"
    )
    m.save(tmp_path / "m.json")
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent), str(tmp_path / "m.json")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "writing\n"
    run.kill()
    run.wait()
    run.stdout.close()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(prepare(tmp_path, m)) == 3
    assert not list((tmp_path / "cache").glob(".*"))


def test_processes_give_what_one_gives_and_name_the_bad_file(tmp_path):
    m, calls = manifest(tmp_path), []
    good = (tmp_path / "images/c2.nii.gz").read_bytes()
    (tmp_path / "images/c2.nii.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"c2\.nii\.gz"):
        prepare(tmp_path, m, workers=2)
    assert not multiprocessing.active_children()
    (tmp_path / "images/c2.nii.gz").write_bytes(good)
    parallel = prepare(tmp_path, m, progress=lambda *a: calls.append(a))
    assert calls == [(1, 1)]  # the good ones were done
    alone = VolumeCache(tmp_path / "other").prepare(m, m.training, spec())
    for a, b in zip(parallel, alone, strict=True):
        for part in ("image.npy", "label.npy", "voxels.npy", "entry.json"):
            assert (a.image_path.parent / part).read_bytes() == (b.image_path.parent / part).read_bytes()


def test_volumes_travel_between_processes(tmp_path):
    volume = pickle.loads(pickle.dumps(prepare(tmp_path, manifest(tmp_path))[0]))
    assert len(pickle.dumps(volume)) < 5000
    assert volume.image.shape == (1, *SHAPE)


def test_unlabelled_labels_are_never_opened(tmp_path):
    m = manifest(tmp_path)
    listed = m.model_copy(update={"unlabeled": m.training, "training": ()})
    for i in range(3):
        (tmp_path / f"labels/c{i}.nii.gz").unlink()
    volumes = VolumeCache(tmp_path / "cache").prepare(listed, listed.unlabeled, spec())
    assert [v.label_path for v in volumes] == [None] * 3
    assert volumes[0].foreground == {}
    with pytest.raises(DataError, match="has no label"):
        _ = volumes[0].label
    with pytest.raises(DataError, match=r"c0\.nii\.gz: cannot be opened \(No such file"):
        prepare(tmp_path, m)


@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), (0,)), ((0, 1, 2), (0, 1, 2)), ((2, 0, 1), ()), ((1, 0, 2), (2,))]
)
def test_permuted_and_flipped_labels_are_brought_over_exactly(tmp_path, axes, flips):
    label = label_of(1)
    stored = np.flip(label, flips).transpose(axes)
    flip = np.diag([-1.0 if a in flips else 1.0 for a in range(3)] + [1.0])
    flip[:3, 3] = [SHAPE[a] - 1 if a in flips else 0 for a in range(3)]
    permute = np.zeros((4, 4))
    permute[3, 3] = 1
    for new, old in enumerate(axes):
        permute[old, new] = 1
    volume = prepare(tmp_path, manifest(tmp_path, stored, AFFINE @ flip @ permute))[1]
    np.testing.assert_array_equal(volume.label, np.searchsorted([0, 3, 7], label))


def test_a_label_moved_by_little_keeps_the_images_grid(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 0.4 * 2
    moved[1, 1] *= 1.004  # resampled on its own it would get another number of voxels
    for data in (spec(), spec(spacing_mm=(2, 0.0501, 3))):
        volume = prepare(tmp_path, manifest(tmp_path, affine=moved), data)[1]
        assert volume.label.shape == volume.shape
        np.testing.assert_allclose(volume.affine[:3, 3][[0, 2]], AFFINE[:3, 3][[0, 2]])


def bad_label(change):
    label = label_of(1).astype(np.float32)
    change(label)
    return label


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (bad_label(lambda a: a.__setitem__((0, 0, 0), 0.9989)), r"1 voxels are no whole numbers, such as 0\.9989;"),
        (bad_label(lambda a: a.__setitem__((0, 0, 0), 4)), r"holds 4, which.*accepted are 0, 3, 7 and 255"),
        (bad_label(lambda a: a.__setitem__((0, 0, 0), -3)), r"holds -3, which.*name them"),
        (bad_label(lambda a: a.__setitem__((0, 0, 0), 70000)), r"holds 70000, which"),
        (np.full(SHAPE, 255, np.uint8), r"every voxel is ignored"),
        (label_of(1, (12, 10, 9)), r"has 12x10x9 voxels.*c1\.nii\.gz has 12x10x8"),
        (np.stack([label_of(1)] * 2, -1), r"has 2 channels; a label has one"),
    ],
)
def test_bad_labels_are_refused_by_name(tmp_path, labels, message):
    with pytest.raises(DataError, match=r"labels/c1\.nii\.gz: .*" + message) as caught:
        prepare(tmp_path, manifest(tmp_path, labels))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shift", [(1.1, 0, 0), (0, 40, 0)])
def test_labels_elsewhere_are_refused(tmp_path, shift):
    moved = AFFINE.copy()
    moved[:3, 3] += shift
    with pytest.raises(DataError, match=r"labels/c1.nii.gz: lies up to .* mm \(.* voxels\) off its image"):
        prepare(tmp_path, manifest(tmp_path, affine=moved))


@pytest.mark.parametrize("ignore", [255, 9, -1, 300])
def test_ignored_voxels(tmp_path, ignore):
    label = label_of(1).astype(np.int16)
    label[:, :, 3:] = ignore
    m = manifest(tmp_path, label, ignore_index=ignore)
    volume = prepare(tmp_path, m)[1]
    assert (volume.label[:, :, 3:] == 255).all()
    np.testing.assert_array_equal(volume.label[:, :, :3], np.searchsorted([0, 3, 7], label[:, :, :3]))
    assert volume.annotated is not None
    assert len(volume.annotated) == 12 * 10 * 3
    assert volume.annotated[:, 2].max() == 2


def test_images_that_do_not_fit_are_refused(tmp_path):
    m = manifest(tmp_path)
    save(tmp_path / "images/c0.nii.gz", np.stack([image_of()] * 2, -1))
    with pytest.raises(DataError, match=r"images/c0\.nii\.gz: has 2 channels, the manifest's modality names 1"):
        prepare(tmp_path, m)
    broken = image_of()
    broken[0, 0, 0] = np.nan
    save(tmp_path / "images/c0.nii.gz", broken)
    with pytest.raises(DataError, match=r"images/c0\.nii\.gz: 1 of 960 voxels are NaN"):
        prepare(tmp_path, m)
    path = tmp_path / "images/c1.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    save(tmp_path / "images/c0.nii.gz", image_of())
    with pytest.raises(DataError, match=r"images/c1\.nii\.gz: "):
        prepare(tmp_path, m)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    manifest(tmp_path).save(tmp_path / "m.json")
    code = (
        "import resource, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "import test_cache as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: t.prepare(Path(sys.argv[1]), t.Manifest.load(sys.argv[3]))\n"
        "except t.OutputError as e: print(e)\n"
    )
    arguments = [str(tmp_path), str(Path(__file__).parent), str(tmp_path / "m.json")]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "cannot keep the preprocessed c0" in run.stdout
    assert run.stdout.count("\n") == 1
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    m = manifest(tmp_path)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="cache: cannot be made"):
        prepare(tmp_path, m)


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(DataError("is bad", path="x.nii", hint="mend it")))
    assert isinstance(error, MedsegError)
    assert str(error) == "x.nii: is bad; mend it"
    assert error.hint == "mend it"


def test_some_voxels_are_a_seeded_choice():
    label = np.zeros((40, 40, 40), np.uint8)
    label[10:30, 10:30, 10:30] = 2
    one, rows = some_voxels(label, 1)
    assert rows == {"2": (0, MOST_VOXELS)}
    assert len(np.unique(one, axis=0)) == MOST_VOXELS
    assert (label[tuple(one.T)] == 2).all()
    assert np.array_equal(one, some_voxels(label, 1)[0])
    assert not np.array_equal(one, some_voxels(label, 2)[0])
