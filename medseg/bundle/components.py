"""Post-processing in a bundle: which connected components of each class its inferer keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.atomic import write_whole
from medseg.bundle import metadata
from medseg.bundle.configs import SCRIPTS, Config
from medseg.bundle.safe_load import read_json
from medseg.bundle.swap import swap_folder
from medseg.bundle.training_facts import TrainingFacts, read_facts
from medseg.config.pipeline import DataSpec
from medseg.errors import OutputError
from medseg.portable.inference.components import LARGEST, Rule, Rules, checked_rules
from medseg.portable.io.write import temporary_name

_TARGET = f"{SCRIPTS}.inference.components.with_components"

NEEDS = ("scikit-image", "0.22")
"""What MONAI needs for it, and from which version on."""


def describe(rule: Rule, unit: str = "mm") -> str:
    """A rule as a phrase.

    Args:
        rule: of a structure.
        unit: of lengths in the images: mm, or px where they have no spacing, so that a volume is a number of pixels.
    """
    if rule == LARGEST:
        return "largest component"
    return f"components of at least {rule['smallest_mm3']:.10g} {'mm3' if unit == 'mm' else 'pixels'}"


def describe_gain(gain: Mapping[str, Any]) -> str:
    """What a rule brought, as a phrase.

    Args:
        gain: a row of those that `set_components` keeps.

    Examples:
        >>> from medseg.bundle.components import describe_gain
        >>> describe_gain({"structure": "liver", "dice_before": 0.832, "dice_after": 0.847, "cases": 2})
        'validation Dice 0.8320 -> 0.8470 (2 cases)'
    """
    noun = "case" if gain["cases"] == 1 else "cases"
    return f"validation Dice {gain['dice_before']:.4f} -> {gain['dice_after']:.4f} ({gain['cases']} {noun})"


def components_of(bundle: Path) -> Rules:
    """The rules that a bundle has.

    Raises:
        BundleError: its configuration cannot be read.
    """
    return checked_rules(read_json(bundle / "configs" / "inference.json")["inferer"].get("components"))


def _without_components(inferer: Config) -> Config:
    """The configuration of an inferer as it was before it got rules."""
    return inferer["inferer"] if inferer["_target_"] == _TARGET else inferer


def set_components(bundle: Path, rules: Rules, gains: Sequence[Mapping[str, Any]]) -> None:
    """Give a bundle its rules in place of those that it has; it is replaced whole.

    Args:
        bundle: its folder.
        rules: label value -> rule; none removes what is there.
        gains: what the rules brought, one row for each with `structure`, `dice_before`, `dice_after` and `cases`, kept
            for people.

    Raises:
        BundleError: its configuration cannot be read.
        OutputError: it cannot be written.
    """
    temporary = temporary_name(bundle)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(bundle, temporary)
        _edit(temporary, rules, gains)
        swap_folder(temporary, bundle)
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot be written ({reason})", path=bundle) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _edit(bundle: Path, rules: Rules, gains: Sequence[Mapping[str, Any]]) -> None:
    configs = bundle / "configs"
    inference, described, ours = (read_json(configs / f"{name}.json") for name in ("inference", "metadata", "medseg"))
    package, version = NEEDS
    inferer = _without_components(inference["inferer"])
    inference["inferer"] = inferer
    if rules:
        of_labels = {str(value): rule for value, rule in sorted(rules.items())}
        inference["inferer"] = {"_target_": _TARGET, "inferer": inferer, "components": of_labels}
        described["required_packages_version"][package] = version
        ours["postprocessing"] = list(gains)
    else:
        described["required_packages_version"].pop(package, None)
        ours.pop("postprocessing", None)
    for name, content in (("inference", inference), ("metadata", described), ("medseg", ours)):
        write_whole(configs / f"{name}.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_page(bundle, read_facts(bundle))


def write_page(bundle: Path, facts: TrainingFacts | None) -> None:
    """Write the page of a bundle for people anew.

    Args:
        bundle: its folder.
        facts: what is known of its training.

    Raises:
        BundleError: its configuration cannot be read.
        OutputError: it cannot be written.
    """
    inference, ours = (read_json(bundle / "configs" / f"{name}.json") for name in ("inference", "medseg"))
    inferer = _without_components(inference["inferer"])
    data = DataSpec(**ours["data"])
    rules = components_of(bundle)
    unit = "px" if facts is not None and facts.unit == "share" else "mm"
    gains = {gain["structure"]: describe_gain(gain) for gain in ours.get("postprocessing", ())}
    kept = {}
    for value, rule in sorted(rules.items()):
        structure = data.labels[value]
        phrases = [describe(rule, unit)]
        if structure in gains:
            phrases.append(gains[structure])
        kept[structure] = ", ".join(phrases)
    page = metadata.readme(data, ours["name"], inferer.get("views", ()), kept, facts)
    write_whole(bundle / "docs" / "README.md", page)
