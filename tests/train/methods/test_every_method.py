"""The contract of a method's `forward`, for every method there is: see `every_method`.

Each test says one property. One that a new paper cannot have by its nature is worth a line in its docstring; the test
then leaves the paper out by name.
"""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
from every_method import (
    CLASSES,
    CLOCK,
    WITHOUT_LABELS,
    Subject,
    every_method,
    make_batch,
    make_targets,
    map_names,
    shipped_classes,
    terms_of,
    values_of,
)
from given_networks import ByChannel

from medseg import methods
from medseg.config.pipeline import Pipeline
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.method import Method
from medseg.workflows.train.checks.streams import MISSING_STREAM
from medseg.workflows.train.plan import plan_pipeline

EVERY = every_method()
LABELLED = [subject for subject in EVERY if subject.sees("label")]
OF_PATCHES = ("mix_and_match",)
"""Methods that compare whole patches: what is around a voxel belongs to the patch, whatever its label is, and the loss
is the same for every order of the features. What they do with 255 and with classes that a label does not cover is
tested with them."""
MIX_POSITIONS = ("auxsegnet",)
"""Methods whose network has no voxel by itself: its affinity mixes what it says of all of them."""
BY_VOXEL = [subject for subject in LABELLED if subject.name not in (*OF_PATCHES, *MIX_POSITIONS)]
STRONG_VIEWS = ("mean_teacher", "ael")
"""Methods that change how the whole of an unlabelled image looks, by its own values or by those of another one."""
ASK_UNLABELLED = [
    subject
    for subject in BY_VOXEL
    if not subject.own
    and subject.name not in STRONG_VIEWS
    and "unlabeled" in [stream.name for stream in subject.kind.streams]
]
LOGITS = 12
"""Channels of an image whose channels are logits: more than all heads of a method have."""

of_every_method = pytest.mark.parametrize("subject", EVERY, ids=str)
of_every_labelled = pytest.mark.parametrize("subject", LABELLED, ids=str)
of_every_voxel = pytest.mark.parametrize("subject", BY_VOXEL, ids=str)
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def trainable(method: Method) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}


def test_no_method_or_rule_of_a_file_is_forgotten():
    assert shipped_classes() == {"method": set(methods.METHODS.values()), "rule": set(methods.RULES.values())}


def idle_terms(method: Method, batch: dict) -> set[str]:
    """The terms that are finite, as they must be, and have a gradient for no parameter."""
    parameters = list(trainable(method).values())
    torch.manual_seed(0)
    terms = method(batch, CLOCK)
    assert terms
    idle = set()
    for name, term in terms.items():
        assert term.shape == (), name
        assert torch.isfinite(term), name
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        found = [gradient for gradient in gradients if gradient is not None]
        assert all(bool(torch.isfinite(gradient).all()) for gradient in found), name
        if not any(bool(gradient.any()) for gradient in found):
            idle.add(name)
    return idle


@of_every_method
@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 1), (3, 2)])
def test_every_term_is_finite_and_trains_something(subject, dims, channels):
    idle: set[str] | None = None
    for seed in range(5):  # a term may rest where an untrained network happens to satisfy it
        method = subject.make(dims, channels, seed=seed)
        found = idle_terms(method, make_batch(method, dims, channels))
        idle = found if idle is None else idle & found
        if not idle:
            break
    assert not idle, "they train nothing"


@of_every_method
def test_the_optimiser_has_what_is_trained_and_nothing_else(subject):
    method = subject.make(2)
    groups = method.parameter_groups(0.1)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(given) == sorted(id(parameter) for parameter in trainable(method).values())
    sum(method(make_batch(method, 2), CLOCK).values()).backward()
    frozen = [parameter for parameter in method.parameters() if not parameter.requires_grad]
    assert all(parameter.grad is None for parameter in frozen)


def numbers_of(subject: Subject) -> dict[str, float]:
    """The options of a method that are numbers other than 0, with their values."""
    found = {}
    for name, parameter in inspect.signature(subject.kind).parameters.items():
        value = subject.options.get(name, parameter.default)
        if isinstance(value, int | float) and not isinstance(value, bool) and value:
            found[name] = value
    return found


def reaches_every_parameter(method: Method, batch: dict) -> None:
    """Processes that train together wait for a gradient of each parameter."""
    method.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    sum(method(batch, CLOCK).values()).backward()
    assert not [name for name, parameter in trainable(method).items() if parameter.grad is None]


@of_every_method
def test_a_weight_of_zero_leaves_every_parameter_in_the_graph(subject):
    numbers = numbers_of(subject)
    for switched_off in [(), *((name,) for name in numbers)]:
        zeros = {name: type(numbers[name])(0) for name in switched_off}
        try:
            method = subject.make(2, **zeros)
        except ConfigError:
            continue  # the method says that this option cannot be 0
        reaches_every_parameter(method, make_batch(method, 2))


def without_optional(method: Method) -> list[list[str]]:
    """The streams of the data sets that lack one optional stream, or all of them; some stream there always is."""
    needed = [stream.name for stream in method.streams if not stream.optional]
    optional = [stream.name for stream in method.streams if stream.optional]
    found = [needed + [other for other in optional if other != name] for name in optional]
    return [names for names in [*found, needed] if names]


@of_every_method
@in_2d_and_3d
def test_a_data_set_without_an_optional_stream_trains_all_the_same(subject, dims):
    method = subject.make(dims)
    batch = make_batch(method, dims)
    for names in without_optional(method):
        partial = {name: batch[name] for name in names}
        assert all(bool(torch.isfinite(term)) for term in terms_of(method, partial).values())
        reaches_every_parameter(method, partial)


@of_every_method
@in_2d_and_3d
def test_the_state_is_the_whole_of_a_method(subject, dims):
    method, other = subject.make(dims), subject.make(dims)
    batch = make_batch(method, dims)
    for step in range(2):  # banks fill
        torch.manual_seed(step)
        method(batch, CLOCK)
        method.after_step(CLOCK)
    for parameter in other.parameters():
        parameter.data.add_(1)
    other.load_state_dict(method.state_dict())
    assert values_of(method, batch) == values_of(other, batch)
    segmenter = method.segmenter()
    image = next(iter(batch.values()))["image"]
    if segmenter is not None:
        assert segmenter.eval()(image).shape == (len(image), CLASSES, *image.shape[2:])
    assert isinstance(method.pretrained(), torch.nn.Module)


DOCUMENTED = [(subject.name, subject.kind) for subject in EVERY]
DOCUMENTED += [(f"rule {name}", methods.find_rule(name)) for name in methods.RULES]


@pytest.mark.parametrize(("name", "kind"), DOCUMENTED, ids=[name for name, _ in DOCUMENTED])
def test_hyper_parameters_are_documented(name, kind):
    for option in inspect.signature(kind).parameters:
        assert f"    {option}:" in (kind.__doc__ or ""), f"{name} does not document {option}"


# Labels. The logits of these methods are channels of the image, see `ByChannel`.


def make_by_channel(subject: Subject, dims: int) -> Method:
    return subject.build(ByChannel(CLASSES, dims, LOGITS), **subject.options)


def labelled_streams(method: Method) -> list[str]:
    return [stream.name for stream in method.streams if "label" in stream.keys]


def change(method: Method, batch: dict, **values) -> dict:
    """A copy of a batch whose labelled streams have other values, made of the old ones, under some keys."""
    changed = dict(batch)
    for name in labelled_streams(method):
        made = {key: make(batch[name]) for key, make in values.items()}
        changed[name] = {**batch[name], **made}
    return changed


def differing(one: dict[str, float], other: dict[str, float]) -> set[str]:
    """Terms that are not the same but for rounding."""
    return {name for name in one if one[name] != pytest.approx(other[name], rel=1e-5, abs=1e-7)}


@of_every_voxel
@in_2d_and_3d
def test_what_the_network_says_where_the_label_is_255_changes_no_term(subject, dims):
    method = make_by_channel(subject, dims)
    batch = make_batch(method, dims, LOGITS)

    def ignored(stream: dict) -> torch.Tensor:
        return torch.where(stream["label"] == 255, stream["image"].flip(1) + 1, stream["image"])

    def learnt(stream: dict) -> torch.Tensor:
        return torch.where(stream["label"] == 255, stream["image"], stream["image"].flip(1) + 1)

    before = values_of(method, batch)
    changed = differing(before, values_of(method, change(method, batch, image=ignored)))
    assert not changed - WITHOUT_LABELS.get(subject.name, set())
    assert differing(before, values_of(method, change(method, batch, image=learnt)))


@pytest.mark.parametrize("subject", ASK_UNLABELLED, ids=str)
@in_2d_and_3d
def test_what_the_network_says_outside_of_unlabelled_images_changes_no_term(subject, dims):
    method = make_by_channel(subject, dims)
    batch = make_batch(method, dims, LOGITS)
    image = batch["unlabeled"]["image"]
    inside = torch.ones_like(image[:, :1], dtype=torch.bool)
    inside[:, :, :5] = False
    other = torch.where(inside, image, image.flip(1) + 1)
    found = []
    for shown in ({"image": image, "inside": inside}, {"image": other, "inside": inside}, {"image": other}):
        found.append(values_of(method, {**batch, "unlabeled": shown}))
    assert not differing(*found[:2]) - WITHOUT_LABELS.get(subject.name, set())
    assert differing(*found[1:]) - WITHOUT_LABELS.get(subject.name, set())


@of_every_labelled
@in_2d_and_3d
def test_a_label_of_nothing_but_255_teaches_nothing_and_gives_no_nan(subject, dims):
    method = subject.make(dims)
    batch = make_batch(method, dims)
    for name in labelled_streams(method):
        label = np.full_like(batch[name]["label"].numpy(), 255)
        targets = {key: torch.from_numpy(value) for key, value in make_targets(method, label).items()}
        batch[name] |= {"label": torch.from_numpy(label), **targets}
    for name, term in terms_of(method, batch).items():
        assert torch.isfinite(term), name
    reaches_every_parameter(method, batch)
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in trainable(method).values())


@of_every_voxel
@in_2d_and_3d
def test_a_class_that_the_label_does_not_cover_is_as_good_as_background(subject, dims):
    """How a network divides what it does not know between the two changes no term that sees the label."""
    method = make_by_channel(subject, dims)
    batch = make_batch(method, dims, LOGITS)

    def without_2(stream: dict) -> torch.Tensor:
        return torch.where(stream["label"] == 2, 0, stream["label"])

    def covered(stream: dict) -> torch.Tensor:
        return torch.tensor([[True, True, False]] * len(stream["image"]))

    partly = change(method, batch, label=without_2, covered=covered)

    def swapped(stream: dict) -> torch.Tensor:
        order = [2, 1, 0, *range(3, LOGITS)]
        return stream["image"][:, order]

    def moved(stream: dict) -> torch.Tensor:
        label = stream["label"]
        return torch.where(label == 255, label, label.roll(3, 3))

    before = values_of(method, partly)
    with_label = differing(before, values_of(method, change(method, partly, label=moved)))
    assert with_label, "no term sees the label"
    assert not with_label & differing(before, values_of(method, change(method, partly, image=swapped)))
    fully = differing(values_of(method, batch), values_of(method, change(method, batch, image=swapped)))
    assert with_label & fully, "a label that covers both tells them apart"


# Planning.


def write_manifest(folder, subject: Subject, *, without: str | None = None, no_map: str | None = None) -> Manifest:
    """A data set that has all that the methods ask for, but for the cases of a stream, or a map of one case."""
    maps = {name: f"{name}.nii.gz" for stream in subject.kind.streams for name in map_names(stream)}
    cases = {
        "labeled": {"image": "a.nii.gz", "label": "al.nii.gz", "maps": maps},
        "weak": {"image": "b.nii.gz", "tags": ["ball"], "maps": maps},
        "unlabeled": {"image": "c.nii.gz", "maps": maps},
    }
    if no_map is not None:
        for case in cases.values():
            case["maps"] = {name: file for name, file in maps.items() if name != no_map}
    content = {
        "labels": {"0": "background", "1": "ball", "2": "box"},
        "modality": {"0": "MR"},
        "training": [
            {**cases[name], "image": f"{name}{number}.nii.gz"}
            for name in ("labeled", "weak")
            for number in range(4)  # weak cases enough for a group
            if name != without
        ],
        "unlabeled": [cases["unlabeled"]] if without != "unlabeled" else [],
    }
    path = folder / "m.json"
    path.write_text(json.dumps(content))
    return Manifest.load(path)


def plan(subject: Subject, manifest: Manifest) -> None:
    pipeline = Pipeline(name="one", stages=({"method": {"name": subject.name}},))
    with methods.use_methods(methods.locate_methods(subject.kind if subject.own else None)):
        plan_pipeline(pipeline, manifest, torch.device("cpu"), None)


@of_every_method
def test_a_stream_that_the_data_set_lacks_is_refused_by_name(subject, tmp_path):
    for stream in subject.kind.streams:
        if stream.optional or stream.name == "all":  # where any other case is, there is one of these
            continue
        what, _ = MISSING_STREAM[stream.name]
        with pytest.raises(ManifestError, match=rf"{what}, which {subject} learns from"):
            plan(subject, write_manifest(tmp_path, subject, without=stream.name))
        for name in map_names(stream):
            with pytest.raises(ManifestError, match=f"{subject} needs a map called '{name}' of each {stream.name}"):
                plan(subject, write_manifest(tmp_path, subject, no_map=name))
