"""YAML as people write it."""

from __future__ import annotations

import pytest
import yaml

from medseg.config.yaml_values import load_yaml


def test_words_are_words():
    assert load_yaml("{a: off, b: yes, c: true}") == {"a": "off", "b": "yes", "c": True}


@pytest.mark.parametrize("text", ["a: 1\na: 2", "{b: {a: 1, a: 1}}", "[{a: 1, c: 2, 'a': 3}]"])
def test_a_key_that_is_there_twice_is_a_mistake(text):
    with pytest.raises(yaml.YAMLError, match="the key 'a' is there twice"):
        load_yaml(text)


def test_a_key_may_go_over_what_is_merged():
    text = "base: &base {width: 8, depth: 3}\narm: {<<: *base, width: 16}"
    assert load_yaml(text)["arm"] == {"width": 16, "depth": 3}


def test_the_same_key_in_two_mappings():
    assert load_yaml("[{a: 1}, {a: 2}]") == [{"a": 1}, {"a": 2}]
