"""YAML as people write it: `on`, `off`, `yes` and `no` are words, as YAML 1.2 has them, and not true or false."""

from __future__ import annotations

import re
from typing import Any

import yaml

TRUE_OR_FALSE = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """The safe loader with the true and false of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != TRUE_OR_FALSE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(TRUE_OR_FALSE, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_yaml(text: str) -> Any:
    """What a YAML text holds: numbers, words, true and false, null, lists and mappings.

    Raises:
        yaml.YAMLError: it is none.

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
