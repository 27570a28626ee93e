"""Which files are one case: `_NNNN` is a channel in nnU-Net's whole convention only, for every command."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import data_spec, labels_of, make_bundle, make_image
from raters import ball, image_of, save
from stock import elsewhere

from medseg.config.pipeline import Intensity
from medseg.errors import DataError, ManifestError
from medseg.manifest.manifest import Case, Manifest
from medseg.portable.io.channel_names import doubtful_channels, group_channels, shown_by_labels
from medseg.portable.io.find_cases import find_cases
from medseg.workflows.consensus.collect_studies import Item, collect_from_files, collect_from_studies_folder
from medseg.workflows.data.check import check_manifest
from medseg.workflows.data.init import init_manifest
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.predict.run import predict

TWO = data_spec(modality=("MR", "MR"), intensity=Intensity(kind="zscore"))


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


# ---- the decision

TABLE = [  # channels, raw, names, labels, cases
    (1, False, "a_0001 a_0002", "", {"a_0001": "a_0001", "a_0002": "a_0002"}),
    (1, True, "a_0001 a_0002", "", {"a_0001": "a_0001", "a_0002": "a_0002"}),
    (1, False, "a_0001", "a", {"a_0001": "a_0001"}),
    (1, False, "a_0000", "", {"a_0000": "a_0000"}),
    (1, True, "a_0000", "", {"a": "a_0000"}),
    (1, False, "a_0000", "a", {"a": "a_0000"}),
    (1, True, "a_0000", "a_0000", {"a_0000": "a_0000"}),
    (1, False, "a_0000", "a a_0000", {"a_0000": "a_0000"}),
    (1, True, "a_0001", "a", {"a_0001": "a_0001"}),
    (1, True, "a_0000 a_0001", "a", {"a_0000": "a_0000", "a_0001": "a_0001"}),
    (1, True, "a_0000 a", "", {"a": "a", "a_0000": "a_0000"}),
    (1, True, "a_0007_0000 b", "", {"a_0007": "a_0007_0000", "b": "b"}),
    (2, False, "a_0000 a_0001", "", {"a": "a_0000 a_0001"}),
    (2, True, "a_0001 a_0000 b", "a", {"a": "a_0000 a_0001", "b": "b"}),
    (2, False, "a_0000 a_0001", "a_0000", {"a_0000": "a_0000", "a_0001": "a_0001"}),
    (2, False, "a_0000 a_0001 a", "", {"a": "a", "a_0000": "a_0000", "a_0001": "a_0001"}),
    (2, True, "a_0001 a_0002", "", {"a_0001": "a_0001", "a_0002": "a_0002"}),
    (2, True, "a_0000 a_0002", "", {"a_0000": "a_0000", "a_0002": "a_0002"}),
    (2, True, "a_0000 a_0001 a_0002", "", {"a_0000": "a_0000", "a_0001": "a_0001", "a_0002": "a_0002"}),
    (2, True, "a_0000", "", {"a": "a_0000"}),
    (2, False, "a_0000", "", {"a_0000": "a_0000"}),
    (3, False, "a_0000 a_0001", "", {"a_0000": "a_0000", "a_0001": "a_0001"}),
    (1, True, "a_000 a_00000 _0000", "", {"_0000": "_0000", "a_000": "a_000", "a_00000": "a_00000"}),
    (2, True, "a0000 a0001", "", {"a0000": "a0000", "a0001": "a0001"}),
]  # fmt: skip


@pytest.mark.parametrize(("channels", "raw", "names", "labels", "cases"), TABLE)
def test_which_names_are_channels(channels, raw, names, labels, cases):
    found = group_channels(names.split(), (channels,), raw=raw, labels=labels.split())
    assert found == {case: members.split() for case, members in cases.items()}


def test_where_nobody_declares_the_channels_the_labels_show_them():
    names = ["a_0000", "a_0001", "b_0000", "b_0002", "c_0000", "d_0000", "d_0001", "e_0000", "e_0001", "e"]
    assert shown_by_labels(names, ["a", "b", "c"]) == {2}
    assert shown_by_labels(names, ["b", "c", "d_0000", "d", "e"]) == set()
    assert shown_by_labels([*names, "f_0000", "f_0001", "f_0002"], ["a", "f"]) == {2, 3}


NAMES = st.builds("{}{}".format, st.sampled_from(["a", "b", "a_0001", "_"]), st.sampled_from(
    ["", "_0000", "_0001", "_0002", "_0003", "_9", "_٠٠٠٠"]
))  # fmt: skip


@given(st.sets(NAMES), st.integers(1, 4), st.booleans(), st.sets(NAMES))
def test_no_file_is_lost_and_none_merged_but_whole_channels(names, channels, raw, labels):
    cases = group_channels(sorted(names), (channels,), raw=raw, labels=labels)
    assert sorted(name for members in cases.values() for name in members) == sorted(names)
    for case, members in cases.items():
        if len(members) > 1:
            assert members == [f"{case}_{number:04d}" for number in range(channels)]
        else:
            assert members in ([case], [f"{case}_0000"])
        assert case not in names or members == [case]
    assert group_channels(sorted(names, reverse=True), (channels,), raw=raw, labels=labels) == cases


def test_a_name_twice_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="two files have one name"):
        group_channels(["a", "a"], (1,))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("o_0001 o_0002 o_0003", "no channels by their numbers, which would be _0000 to _0002"),
        ("o_0000 o_0002", "no channels by their numbers"),
        ("o_0001 o_0000", "in another order"),
        ("p_0000 q_0001", "are called p and q"),
        ("o_0000 o_0001", None),
        ("o_0004", None),
        ("o_0004 o_0004", None),  # one name in two folders
        ("t1_0007 t2_0007", None),
        ("o_0001 o_seg", None),
    ],
)
def test_numbers_that_are_no_channels(names, words):
    doubt = doubtful_channels(names.split())
    assert doubt is None if words is None else words in doubt


# ---- folders and files to predict


@given(st.sets(NAMES, min_size=1), st.integers(1, 3), st.sampled_from(["in", "imagesTs"]))
def test_every_file_of_a_folder_is_in_one_case(names, channels, folder):
    with tempfile.TemporaryDirectory() as place:
        touch(Path(place, folder), *(f"{name}.nii" for name in names))
        items = find_cases(Path(place, folder), channels)
        files = [Path(file).name for item in items for file in json.loads(item["files"])]
        assert sorted(files) == sorted(f"{name}.nii" for name in names)
        assert len({item["case"] for item in items}) == len(items)
        for item in items:
            if item["case"] in names:
                assert item["image"] == str(Path(place, folder, f"{item['case']}.nii"))


def test_a_file_alone_is_called_as_in_its_folder(tmp_path):
    plain = touch(tmp_path / "in", "organ_0001.nii.gz", "organ_0002.nii.gz", "p_0000.nii.gz")
    raw = touch(tmp_path / "imagesTs", "p_0000.nii.gz", "o_0000.nii.gz", "o_0001.nii.gz", "q_0000.nii", "q.mha")
    for folder, channels in ((plain, 1), (plain, 2), (raw, 1)):
        whole = {item["image"]: item["case"] for item in find_cases(folder, channels)}
        alone = {str(file): find_cases(file, channels)[0]["case"] for file in folder.iterdir()}
        assert alone == whole
    assert find_cases(raw / "p_0000.nii.gz")[0]["case"] == "p"
    assert find_cases(raw / "o_0000.nii.gz", 2)[0]["case"] == "o_0000"  # one of two channels is not the case
    assert [item["case"] for item in find_cases(raw, 2)] == ["o", "p", "q", "q_0000"]


def test_two_files_of_one_name_are_refused_by_both(tmp_path):
    touch(tmp_path / "in", "scan.nii.gz", "scan.mha")
    with pytest.raises(ValueError, match=r"has scan\.mha and scan\.nii\.gz, both of the name 'scan'"):
        find_cases(tmp_path / "in")
    assert find_cases(tmp_path / "in" / "scan.mha")[0]["case"] == "scan"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {1: make_bundle(folder / "one" / "bundle"), 2: make_bundle(folder / "two" / "bundle", TWO)}


def test_numbered_patients_one_by_one_and_in_a_folder(models, tmp_path):
    names = [f"organ_{n:04d}.nii.gz" for n in (1, 2, 3)]
    for seed, name in enumerate(names):
        make_image(tmp_path / "in" / name, seed=seed)
        predict(models[1], tmp_path / "in" / name, tmp_path / "alone")
    predict(models[1], tmp_path / "in", tmp_path / "whole")
    for folder in ("alone", "whole"):
        assert sorted(p.name for p in (tmp_path / folder).glob("*.gz")) == names
    for name in names:
        np.testing.assert_array_equal(labels_of(tmp_path / "alone" / name), labels_of(tmp_path / "whole" / name))


def test_two_patients_are_not_two_channels(models, tmp_path):
    for n in (1, 2):
        make_image(tmp_path / "in" / f"organ_{n:04d}.nii.gz", seed=n)
    report = predict(models[2], tmp_path / "in", tmp_path / "out")
    assert [entry["case"] for entry in report["failed"]] == ["organ_0001", "organ_0002"]
    said = report["failed"][0]["error"]
    assert "has 1 channels, the model takes 2 (MR, MR); channels in several files are CASE_0000 to CASE_0001" in said
    make_image(tmp_path / "in" / "organ_0000.nii.gz")
    (tmp_path / "in" / "organ_0002.nii.gz").unlink()
    report = predict(models[2], tmp_path / "in", tmp_path / "out")
    assert [(entry["case"], len(entry["images"])) for entry in report["cases"]] == [("organ", 2)]


@pytest.mark.slow
def test_the_stock_bundle_has_the_same_cases(models, tmp_path):
    for n in range(2):
        make_image(tmp_path / "in1" / f"organ_{n:04d}.nii.gz", seed=n)
        make_image(tmp_path / "in2" / f"p_{n:04d}.nii.gz", seed=n)
    for channels, wanted in ((1, ["organ_0000.nii.gz", "organ_0001.nii.gz"]), (2, ["p.nii.gz"])):
        run = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", "."]
        theirs = tmp_path / f"theirs{channels}"
        elsewhere(models[channels], *run, "--dataset_dir", str(tmp_path / f"in{channels}"), "--output_dir", str(theirs))
        ours = tmp_path / f"ours{channels}"
        predict(models[channels], tmp_path / f"in{channels}", ours)
        assert sorted(p.name for p in theirs.iterdir()) == sorted(p.name for p in ours.glob("*.gz")) == wanted
        for name in wanted:
            np.testing.assert_array_equal(labels_of(ours / name), labels_of(theirs / name))


def test_raw_folders_of_nnunet_from_init_to_evaluation(models, tmp_path):
    raw = tmp_path / "Dataset001_X"
    for n in range(2):
        image = make_image(raw / f"imagesTr/c_{n:04d}_0000.nii.gz", seed=n)
        save(raw / f"labelsTr/c_{n:04d}.nii.gz", (labels_of(image) > 0).astype(np.uint8))
    make_image(raw / "imagesTs/t_0000.nii.gz", seed=5)
    (raw / "labelsTs").mkdir()
    told = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": 7},
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(told))
    made = init_manifest(raw, tmp_path / "m.json")
    assert [case.name for case in made.cases] == ["c_0000", "c_0001", "t"]
    predict(models[1], raw / "imagesTr", tmp_path / "by_folder")
    predict(models[1], tmp_path / "m.json", tmp_path / "by_manifest", section="training")
    for folder in ("by_folder", "by_manifest"):
        assert sorted(p.name for p in (tmp_path / folder).glob("*.gz")) == ["c_0000.nii.gz", "c_0001.nii.gz"]
    predict(models[1], raw / "imagesTs", tmp_path / "tested")
    assert [p.name for p in (tmp_path / "tested").glob("*.gz")] == ["t.nii.gz"]
    (raw / "labelsTs" / "t.nii.gz").write_bytes((tmp_path / "tested" / "t.nii.gz").read_bytes())
    report = evaluate(tmp_path / "tested", raw / "labelsTs", pictures=False)
    assert report["failed"] == []
    assert report["mean"]["dice"]["mean"] == 1


# ---- predictions and references


def test_predictions_pair_with_references_of_their_own_number(tmp_path):
    for n in range(3):
        save(tmp_path / "labels" / f"organ_{n:04d}.nii.gz", ball(radius=4 + n))
        save(tmp_path / "pred" / f"organ_{n:04d}.nii.gz", ball(radius=4 + n))
    save(tmp_path / "labels" / "q.nii.gz", ball())
    save(tmp_path / "pred" / "q_0000.nii.gz", ball())  # of a plain folder, whose label has no number
    report = evaluate(tmp_path / "pred", tmp_path / "labels", pictures=False)
    assert report["failed"] == []
    assert [case["mean_dice"] for case in report["cases"]] == [1.0] * 4
    save(tmp_path / "pred" / "q_0001.nii.gz", ball())
    report = evaluate(tmp_path / "pred", tmp_path / "labels", pictures=False)
    assert report["failed"] == ["q"]
    assert report["unmatched"] == ["q_0000.nii.gz", "q_0001.nii.gz"]
    save(tmp_path / "pred" / "organ_0001.mha", ball())
    with pytest.raises(DataError, match=r"has organ_0001\.mha and organ_0001\.nii\.gz, both of the name"):
        evaluate(tmp_path / "pred", tmp_path / "labels", pictures=False)


# ---- manifests


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ({"image": "imagesTr/p_0000.nii.gz", "label": "labelsTr/p_0000.nii.gz"}, "p_0000"),
        ({"image": "x/p_0000.nii.gz", "annotations": [{"rater": "a", "label": "a/p.nii.gz"}]}, "p"),
        ({"image": "x/p_0001.nii.gz", "label": "y/p.nii.gz"}, "p_0001"),
        ({"image": "imagesTr/p_0001.nii.gz"}, "p_0001"),
    ],
)
def test_names_of_cases(case, name):
    assert Case.model_validate(case).name == name


def data(folder: Path, images: str, labels: str, *, places=("images", "labels")) -> Path:
    for name in images.split():
        save(folder / places[0] / f"{name}.nii.gz", image_of(ball(), seed=len(list(folder.rglob("*.gz")))))
    for name in labels.split():
        save(folder / places[1] / f"{name}.nii.gz", ball())
    return folder


def listed(manifest: Manifest) -> dict[str, list[tuple[str, int]]]:
    sections = {name: getattr(manifest, name) for name in ("training", "test", "unlabeled")}
    return {name: [(case.name, len(case.image)) for case in cases] for name, cases in sections.items() if cases}


def test_init_makes_a_case_of_each_patient(tmp_path):
    folder = data(tmp_path / "d", "organ_0001 organ_0002 organ_0003 organ_0004", "organ_0001")
    made = init_manifest(folder, tmp_path / "m.json")
    assert listed(made) == {
        "training": [("organ_0001", 1)], "unlabeled": [("organ_0002", 1), ("organ_0003", 1), ("organ_0004", 1)],
    }  # fmt: skip
    assert made.channels == 1
    assert check_manifest(tmp_path / "m.json").problems == ()


@pytest.mark.parametrize("modality", [None, "MR", "T1,T2"])
def test_init_finds_channels_by_their_labels_or_by_the_modalities(tmp_path, modality):
    folder = data(tmp_path / "d", "a_0000 a_0001 b_0000 b_0001", "a")
    made = init_manifest(folder, tmp_path / "m.json", modality=modality)
    assert listed(made) == {"training": [("a", 2)], "unlabeled": [("b", 2)]}
    assert check_manifest(tmp_path / "m.json").ok


def test_init_of_ids_from_0000_in_folders_called_as_nnunets(tmp_path):
    folder = data(tmp_path / "d", "o_0000 o_0001 o_0002", "o_0000 o_0001", places=("imagesTr", "labelsTr"))
    data(tmp_path / "d", "o_0000 o_0009", "", places=("imagesTs", "labelsTs"))
    (tmp_path / "d/imagesTs/o_0000.nii.gz").rename(tmp_path / "d/imagesTs/v_0000.nii.gz")
    made = init_manifest(folder, tmp_path / "m.json")
    assert listed(made) == {
        "training": [("o_0000", 1), ("o_0001", 1)], "unlabeled": [("o_0002", 1)], "test": [("o_0009", 1), ("v", 1)],
    }  # fmt: skip
    (tmp_path / "d/labelsTr/o_0000.nii.gz").unlink()
    made = init_manifest(folder, tmp_path / "m.json")
    assert listed(made)["unlabeled"] == [("o_0000", 1), ("o_0002", 1)]  # by a "case" key, for alone it would be o


def test_init_names_the_channels_that_are_missing(tmp_path):
    folder = data(tmp_path / "d", "a_0000 a_0002 b_0000 b_0001", "a b")
    with pytest.raises(DataError, match=r"a\.nii\.gz \(there are a_0000, a_0002; channels are numbered from 0000 "):
        init_manifest(folder, tmp_path / "m.json")
    told = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
    raw = data(tmp_path / "raw", "a_0000 a_0002 b_0000 b_0001", "a b", places=("imagesTr", "labelsTr"))
    (raw / "dataset.json").write_text(json.dumps(told))
    with pytest.raises(
        ManifestError, match=r"a_0000\.nii\.gz: is no channel of a case 'a', which would be a_0000, a_0001"
    ):
        init_manifest(raw, tmp_path / "m.json")
    for name in ("a_0000", "a_0002"):
        (raw / "imagesTr" / f"{name}.nii.gz").unlink()
    save(raw / "imagesTr" / "a_0001.nii.gz", image_of(ball()))  # with one channel, its number is 0000
    with pytest.raises(ManifestError, match=r"a_0001\.nii\.gz: .*rename it, a_0001_0000\.nii\.gz if it is a case by"):
        init_manifest(raw, tmp_path / "m.json")


def test_init_loses_no_file_of_two_endings(tmp_path):
    folder = data(tmp_path / "d", "a b", "a b")
    save(tmp_path / "d" / "images" / "a.mha", image_of(ball()))
    with pytest.raises(DataError, match=r"images: has a\.mha and a\.nii\.gz, both of the name 'a'"):
        init_manifest(folder, tmp_path / "m.json")


def manifest_of(folder: Path, images: list[str], **more) -> Path:
    for n, name in enumerate(images):
        save(folder / name, image_of(ball(), seed=n))
    save(folder / "label.nii.gz", ball())
    content = {"labels": {"0": "background", "1": "x"}, "modality": ["MR"] * len(images)}
    content["training"] = [{"image": images, "label": "label.nii.gz", **more}]
    (folder / "m.json").write_text(json.dumps(content))
    return folder / "m.json"


@pytest.mark.parametrize("headers_only", [False, True])
def test_check_finds_patients_in_the_place_of_channels(tmp_path, headers_only):
    names = [f"organ_{n:04d}.nii.gz" for n in (1, 2, 3, 4)]
    report = check_manifest(manifest_of(tmp_path, names), headers_only=headers_only)
    (problem,) = report.problems
    assert (problem.severity, problem.code, problem.file) == ("error", "channel_names", names[0])
    assert f"{', '.join(names)} are no channels by their numbers" in problem.message
    assert not report.ok
    (problem,) = check_manifest(manifest_of(tmp_path, names, case="p"), headers_only=headers_only).problems
    assert problem.severity == "warning"
    assert check_manifest(manifest_of(tmp_path, ["p_0000.nii.gz", "p_0001.nii.gz"])).problems == ()


def test_more_files_than_modalities_are_named(tmp_path):
    path = manifest_of(tmp_path, [f"organ_{n:04d}.nii.gz" for n in range(1, 8)])
    path.write_text(path.read_text().replace(json.dumps(["MR"] * 7), '["MR"]'))
    with pytest.raises(
        ManifestError, match=r"has 7 files, modality has 1 channels: organ_0001\.nii\.gz, .* and 3 more"
    ):
        Manifest.load(path)


def test_check_finds_names_that_differ_in_capital_letters_only(tmp_path):
    data(tmp_path, "P1 p1 p2", "P1")
    init_manifest(tmp_path, tmp_path / "m.json")
    (problem,) = check_manifest(tmp_path / "m.json").problems
    assert (problem.case, problem.severity, problem.code) == ("p1", "warning", "case_names")
    assert "differs from the case P1" in problem.message


# ---- studies to fuse


def studies(folder: Path, images: str, **raters: str) -> list[Item]:
    touch(folder / "images", *(f"{name}.nii.gz" for name in images.split()))
    for rater, names in raters.items():
        touch(folder / rater, *(f"{name}.nii.gz" for name in names.split()))
    return collect_from_files([folder / "images"], [folder / rater for rater in raters], [])


def told(items: list[Item]) -> dict[str, tuple[int, str]]:
    drawn = {
        i.name: " ".join(f"{p.parent.name}/{p.name.removesuffix('.nii.gz')}" for p in i.annotations) for i in items
    }
    return {item.name: (len(item.images), drawn[item.name]) for item in items}


def test_studies_of_numbered_patients_and_of_channels(tmp_path):
    assert told(studies(tmp_path / "a", "o_0001 o_0002", x="o_0001 o_0002", y="o_0002")) == {
        "o_0001": (1, "x/o_0001"), "o_0002": (1, "x/o_0002 y/o_0002"),
    }  # fmt: skip
    assert told(studies(tmp_path / "b", "s_0000 s_0001 t_0000 t_0001", x="s t", y="s")) == {
        "s": (2, "x/s y/s"), "t": (2, "x/t"),
    }  # fmt: skip
    assert told(studies(tmp_path / "c", "s_0000 t_0000", x="s t", y="s t_0000")) == {
        "s": (1, "x/s y/s"), "t_0000": (1, "x/t y/t_0000"),
    }  # fmt: skip
    assert told(studies(tmp_path / "d", "s_0000 s", x="s", y="s_0000")) == {
        "s": (1, "x/s"), "s_0000": (1, "y/s_0000"),
    }  # fmt: skip
    with pytest.raises(DataError, match="no image of which"):  # s may be either's
        studies(tmp_path / "e", "s_0000 s_0002", x="s")
    touch(tmp_path / "a" / "images", "o_0001.mha")
    with pytest.raises(DataError, match=r"has o_0001\.mha and o_0001\.nii\.gz, both of the name 'o_0001'"):
        studies(tmp_path / "a", "", x="")


def test_one_study_and_its_files_in_folders(tmp_path):
    image = save(tmp_path / "o_0000.nii.gz", image_of(ball()))
    x = touch(tmp_path / "x", "o.nii.gz", "o_0001.nii.gz")
    assert collect_from_files([image], [x], [])[0].name == "o"
    touch(x, "o_0000.nii.gz")
    assert collect_from_files([image], [x], [])[0].name == "o_0000"
    other = save(tmp_path / "o_0001.nii.gz", image_of(ball()))
    assert collect_from_files([other], [x], [])[0].name == "o_0001"
    assert collect_from_files([image, other], [tmp_path / "drawn.nii.gz"], [])[0].name == "o"


def test_a_studies_folder_takes_labels_by_their_whole_name(tmp_path):
    touch(tmp_path, "p.nii.gz", "p_0000.nii.gz")
    touch(tmp_path / "labels" / "x", "p_0000.nii.gz")
    touch(tmp_path / "labels" / "y", "p.nii.gz", "p_0000.nii.gz")
    assert told(collect_from_studies_folder(tmp_path, [])) == {"p": (1, "y/p"), "p_0000": (1, "x/p_0000 y/p_0000")}
