"""Writing what a bundle keeps of its training into a bundle that is there."""

from __future__ import annotations

import json
from pathlib import Path

from medseg.atomic import write_whole
from medseg.bundle.components import write_page
from medseg.bundle.model_card import metadata_of
from medseg.bundle.safe_load import read_json
from medseg.bundle.training_facts import FACTS, TrainingFacts
from medseg.config.pipeline import DataSpec


def write_facts(bundle: Path, facts: TrainingFacts) -> None:
    """Put facts into a bundle, and into its metadata and page; weights and configuration stay as they are.

    Args:
        bundle: its folder.
        facts: of its training; their file is written last, so that whoever finds it finds the rest.

    Raises:
        BundleError: its configuration cannot be read.
        OutputError: it cannot be written.
    """
    configs = bundle / "configs"
    data = DataSpec(**read_json(configs / "medseg.json")["data"])
    metadata = read_json(configs / "metadata.json") | metadata_of(data, facts)
    write_whole(configs / "metadata.json", json.dumps(metadata, indent=2, allow_nan=False) + "\n")
    write_page(bundle, facts)
    write_whole(configs / FACTS, facts.text())
