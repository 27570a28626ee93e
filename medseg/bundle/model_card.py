"""What the page of a bundle tells of its training, in plain words: scores, data, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medseg.bundle.training_facts import Spread, StructureFacts, TrainingFacts
from medseg.config.pipeline import DataSpec

FEW_CASES = 10
"""Labelled training cases below which the page says that they are few."""

NOT_STATED = "not stated"


def cell(text: str) -> str:
    """A text in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def kinds_of(data: DataSpec) -> str:
    """The modalities of the channels, each once."""
    kinds = [kind for kind in dict.fromkeys(data.modality) if kind != "OT"]
    return cell(", ".join(kinds)) if kinds else "images"


def structure_table(data: DataSpec, facts: TrainingFacts | None) -> str:
    """The values of a result, and what labels and validation say of each structure."""
    validation = facts.validation if facts else None
    sizes = facts.structures if facts else {}
    heads = ["value in the result", "structure"]
    if validation:
        heads.append(f"validation {validation.metric}")
    if sizes and facts:
        heads.append("in training labels, " + ("ml" if facts.unit == "ml" else "share of the image"))
    rows = [heads, ["---"] * len(heads)]
    for value in data.label_values:
        name = data.labels[value]
        row = [", ".join(map(str, data.members.get(value, (value,)))), cell(name)]
        if validation:
            row.append(_score(validation.structures.get(name)) if name in validation.structures else "")
        if sizes and facts:
            row.append(_size(sizes.get(value), facts.unit))
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def before_postprocessing(kept: Mapping[str, str], facts: TrainingFacts | None) -> str:
    """What the scores of `structure_table` leave out, a paragraph; empty where they leave out nothing.

    Args:
        kept: structure -> which of its components stay and what that brought, as a phrase.
        facts: of the training.
    """
    if not kept or facts is None or facts.validation is None:
        return ""
    rules = "; ".join(f"{cell(structure)}: {phrase}" for structure, phrase in kept.items())
    return (
        f"The scores are those of the network alone, before the post-processing that the bundle applies: {rules}.\n\n"
    )


def _score(value: float | None) -> str:
    return "in no case" if value is None else f"{value:.3f}"


def _size(known: StructureFacts | None, unit: str) -> str:
    if known is None:
        return ""
    if known.size is None:
        return f"in none of {known.cases}"
    numbers = [known.size.smallest, known.size.median, known.size.largest]
    low, middle, high = (_number(each) if unit == "ml" else f"{each:.2%}" for each in numbers)
    text = f"{low} to {high}, median {middle}"
    if known.absent:
        text += f"; absent in {known.absent} of {known.cases}"
    return text


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def training_sections(data: DataSpec, facts: TrainingFacts | None) -> str:
    """The sections of a page on scores and data, each with its heading; empty where nothing was kept."""
    if facts is None:
        return ""
    return f"## How good it is\n\n{_scores(facts)}\n\n## What it was trained on\n\n{_training(data, facts)}\n\n"


def _scores(facts: TrainingFacts) -> str:
    found = facts.validation
    if found is None:
        return (
            "No validation case had a label: the weights are those of the last iteration, and how good they are is\n"
            "not known. Compare results with labels of your own before you rely on it."
        )
    mean = f"mean {found.metric}" if found.metric == "Dice" else "balanced accuracy"
    cases = "1 validation case" if found.cases == 1 else f"{found.cases} validation cases"
    return (
        f"The {mean} of {cases} is {found.mean:.3f}. These cases chose the weights, which are the best of\n"
        "all that were tried on them, so that scores of new cases are usually lower. No test case was used."
    )


def _training(data: DataSpec, facts: TrainingFacts) -> str:
    rows = ["| section of the data set | cases |", "| --- | --- |"]
    for section, kinds in facts.cases.items():
        words = "; ".join(f"{count} {kind}" for kind, count in kinds.items())
        rows.append(f"| {section} | {words} |")
    lines = [f"- Date: {facts.date}"]
    lines.append(f"- Licence of the data: {cell(facts.licence) if facts.licence else NOT_STATED}")
    for what, spreads in (("Spacing of the files", facts.spacing_mm), ("Field of view", facts.field_of_view_mm)):
        if spreads:
            lines.append(f"- {what}, mm (x, y, z): {_by(spreads)}")
    for channel, (name, known) in enumerate(zip(data.modality, facts.channels, strict=False)):
        of = f"Intensities of {cell(name)}" if len(data.modality) == 1 else f"Channel {channel}, {cell(name)}"
        low, middle, high = (known.percentiles[q].median for q in ("1", "50", "99"))
        numbers = f"1st percentile {_number(low)}, median {_number(middle)}, 99th {_number(high)}"
        lines.append(f"- {of} (middle of {known.images} images): {numbers}")
    versions = ", ".join(f"{package} {version}" for package, version in facts.versions.items())
    lines.append(f"- Versions: {versions}")
    return "\n".join(rows) + "\n\n" + "\n".join(lines)


def _by(spreads: Sequence[Spread]) -> str:
    ranges = []
    for each in spreads:
        same = f"{each.smallest:.4g}" == f"{each.largest:.4g}"
        ranges.append(f"{each.smallest:.4g}" if same else f"{each.smallest:.4g} to {each.largest:.4g}")
    return " x ".join(ranges)


def limits(data: DataSpec, facts: TrainingFacts | None) -> str:
    """What the model is not for, in plain words, as a list."""
    lines = [
        "Not for diagnostic use: for research, and every result has to be looked at.",
        f"It knows {kinds_of(data)} as in its training. Other modalities, scanners, contrast agents and diseases give\n"
        "  results that look as certain and may be wrong.",
    ]
    if data.smallest_mm is not None and not _is_of_pictures(facts):
        lengths = " x ".join(f"{length:.4g}" for length in data.smallest_mm)
        lines.append(
            f"Images that show less than {lengths} mm (x, y, z), the least of its data set, give more mistakes."
        )
    labelled = facts.cases.get("training", {}).get("labelled", 0) if facts else FEW_CASES
    if labelled < FEW_CASES:
        lines.append(f"It learnt from {labelled} labelled cases: few, so that unusual anatomy is likely to be missed.")
    lines.append(f"It finds {', '.join(cell(name) for name in data.structures.values())} and nothing else.")
    if facts is not None:
        lines.append(
            "`medseg predict` warns of images and volumes unlike those of its training (`--implausible refuse` writes\n"
            "  none of them); MONAI alone does not."
        )
    return "\n".join(f"- {line}" for line in lines)


def _is_of_pictures(facts: TrainingFacts | None) -> bool:
    return facts is not None and not facts.spacing_mm


def metadata_of(data: DataSpec, facts: TrainingFacts) -> dict[str, object]:
    """Fields of `metadata.json` that tell of the training, by the names that MONAI's model zoo has for them."""
    licence = facts.licence or NOT_STATED
    labels = {str(value): data.labels[value] for value in data.label_values}
    labels |= {str(value): name for value, name in data.value_names.items()}
    fields: dict[str, object] = {
        "changelog": {"1.0.0": f"as trained, {facts.date}"},
        "copyright": f"As of the training data and its user; licence of the data: {licence}",
        "data_source": f"The data of the user who trained it; licence: {licence}",
        "image_classes": kinds_of(data),
        "label_classes": labels,
        "pred_classes": labels,
        "training_cases": facts.cases,
    }
    if facts.validation is not None:
        found = facts.validation
        mean = "mean_dice" if found.metric == "Dice" else "balanced_accuracy"
        scores = {name: value for name, value in found.structures.items() if value is not None}
        fields["eval_metrics"] = {mean: found.mean, "validation_cases": found.cases, found.metric.lower(): scores}
    return fields
