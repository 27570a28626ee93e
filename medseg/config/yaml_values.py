"""YAML as people write it, by the rules of YAML 1.2 where the usual reader has others.

`on`, `off`, `yes` and `no` are words, and not true or false; a key that a mapping has twice is a mistake, and not
silently the last one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

TRUE_OR_FALSE = "tag:yaml.org,2002:bool"
MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader with the true and false of YAML 1.2, and with keys that are unique."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, before merge keys (`<<`) go into it: what they bring may be there as well."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != TRUE_OR_FALSE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(TRUE_OR_FALSE, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_yaml(text: str) -> Any:
    """What a YAML text holds: numbers, words, true and false, null, lists and mappings.

    Raises:
        yaml.YAMLError: it is none, or a mapping has a key twice.

    Examples:
        >>> from medseg.config.yaml_values import load_yaml
        >>> load_yaml("[off, true, 1e-3, null]")
        ['off', True, '1e-3', None]
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except RecursionError as error:
        raise yaml.YAMLError("lists and mappings are nested too deeply") from error
    finally:
        loader.dispose()
