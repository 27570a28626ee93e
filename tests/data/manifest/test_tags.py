"""Tags that are no list of the classes in the image: a 0 or 1 for each class, or a class twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import ManifestError
from medseg.manifest.manifest import Manifest

LABELS = {"0": "background", "1": "ball", "2": "box"}


def build(tags, **more) -> Manifest:
    content = {"labels": LABELS, "training": [{"image": "a.png", "tags": tags}], **more}
    return Manifest.build(content, Path("m.json"))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([0, 1, 1], "[0, 1, 1] names the background, background"),
        ([0, 1], "[0, 1] names the background"),
        ([1, 0], "[1, 0] names the background"),
        ([0], "[0] names the background"),
        (["background"], "['background'] names the background"),
        ({"background": True}, "{'background': True} names the background"),
        ([1, 1], "[1, 1] names ball twice"),
        (["box", "2"], "['box', '2'] names box twice"),
        ({"box": True, "2": False}, "{'box': True, '2': False} names box twice"),
    ],
)
def test_tags_that_name_the_background_or_a_class_twice_are_refused(tags, found):
    with pytest.raises(ManifestError) as caught:
        build(tags)
    message = str(caught.value)
    assert message.startswith(f"m.json: training[0].tags: {found}")
    assert message.endswith(
        'accepted are the classes that are in the image, such as ["ball"], or {"ball": true or false}'
    )
    assert "\n" not in message


def test_tags_that_are_classes_are_read_as_such():
    manifest = build([2, 1])
    assert manifest.presence(manifest.training[0]) == {1: True, 2: True}


def test_without_a_background_0_is_a_class_of_which_tags_may_tell_once():
    manifest = build([0, 1], background=None)
    assert manifest.presence(manifest.training[0]) == {0: True, 1: True, 2: False}
    with pytest.raises(ManifestError, match=r"\[0, 0\] names background twice"):
        build([0, 0], background=None)
