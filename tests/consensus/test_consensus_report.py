"""The report of a fused study: what it says, what it shows, and that a browser opens it offline."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from pages import NASTY as NASTY_NAME
from pages import Page, shown
from PIL import Image
from raters import ball, image_of, save, write_study

from medseg.consensus.fuse import FUSERS
from medseg.workflows.consensus.options import ConsensusOptions
from medseg.workflows.consensus.report import crop as scenes
from medseg.workflows.consensus.report import report as consensus_page
from medseg.workflows.consensus.report import viewer as viewer_module
from medseg.workflows.consensus.report.descriptions import describe_method, describe_rater
from medseg.workflows.consensus.report.figures import draw_worst_slices
from medseg.workflows.consensus.report.page_data import inputs
from medseg.workflows.consensus.report.report import write_page
from medseg.workflows.consensus.report.viewer import NIIVUE, make_viewer
from medseg.workflows.consensus.run import consensus
from medseg.workflows.reports.pages import render_page

NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "</script><b>bob</b>"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Of three raters and two structures, one with a name that would break careless HTML."""
    folder = tmp_path_factory.mktemp("report")
    image, drawn = write_study(folder)
    for n, path in enumerate(drawn[:2]):
        save(path, np.where(ball(radius=2 + n), 2, ball(radius=5 + n)).astype(np.uint8))
    names = ("anna", NASTY, "cleo")
    labels = ("1=liver & co", "2=tumour")
    consensus(ConsensusOptions(folder / "out", [image], drawn, names, label=labels, compare=True))
    return folder / "out" / "report.html"


def test_two_raters_are_told_of_the_image_only_where_it_is_looked_at(tmp_path):
    image, drawn = write_study(tmp_path)
    for method, words in (("gcssl", "and the image decides"), ("majority", "and nothing tells who is right")):
        consensus(ConsensusOptions(tmp_path / method, [image], drawn[:2], method=method, viewer=False))
        text = (tmp_path / method / "report.html").read_text(encoding="utf-8")
        assert words in text
        assert ("Short boundaries are preferred" in text) == (method == "gcssl")


def test_pictures_have_no_millimetres_in_whatever_format_their_consensus_is(tmp_path):
    truth = ball()[:, :, 5]
    drawn = [save(tmp_path / "a.png", truth), save(tmp_path / "b.png", np.roll(truth, 2, 0))]
    image = save(tmp_path / "eye.png", (truth * 90).astype(np.uint8))
    consensus(ConsensusOptions(tmp_path / "out", [image], drawn, format="nifti", method="majority"))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert "HD95 pixels" in text
    assert not re.search(r"\b(mm|ml|cm²)\b", text)


def test_what_it_says(report):
    text = report.read_text(encoding="utf-8")
    for words in ("Not for diagnostic use", "anna", "liver &amp; co", "Who was trusted, and why", "tumour",
                  "When not to trust this", "Krippendorff", "Other methods", "right is on the left",
                  "annotated 50%", "@media print"):  # fmt: skip
        assert words in text, words
    assert "&lt;/script&gt;&lt;b&gt;bob" in text
    assert "<b>bob</b>" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    facts = json.loads((report.parent / "report.json").read_text())
    for rater in facts["raters"]:
        assert f"{rater['weight']:.0%}" in text
    assert str(report.parent) not in text


def test_it_needs_nothing_beside_it(report):
    text = report.read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert len(re.findall('<script(?: type="application/json" id="viewer-data")?>', text)) == 3
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)|url\((?!data:)|https?://|@import", own)
    assert report.stat().st_size < 5e6


def test_the_viewer_is_the_published_one_and_comes_with_its_licence():
    assert hashlib.sha256(NIIVUE.read_bytes()).hexdigest() == NIIVUE_SHA256
    assert NIIVUE_SHA256 in NIIVUE.with_name("README.md").read_text()
    assert "BSD 2-Clause" in NIIVUE.with_name("LICENSE").read_text()


def test_figures_show_the_slices_of_largest_disagreement(report, tmp_path):
    result = result_of(tmp_path)
    scene = scenes.scene_of(result)
    view = scenes.choose_view(scene)
    assert view.name == "axial"  # the thickest voxels
    places = scenes.find_worst_slices(scene, view)
    total = scene.disagreement.sum((0, 1))
    assert total.argmax() in places
    assert places == sorted(places)
    assert len(places) <= 3
    data, words = draw_worst_slices(result, scene)
    with Image.open(io.BytesIO(data)) as figure:
        assert figure.width == pytest.approx(13.5 * 110, abs=2)
    assert len(words) == len(places)
    # stored LPS: slices along z run as they are stored, those along x backwards
    assert scene.stored[2][0] < scene.stored[2][-1]
    assert scene.stored[0][0] > scene.stored[0][-1]
    where = np.unravel_index(int(scene.disagreement.argmax()), scene.disagreement.shape)
    at = tuple(int(numbers[n]) - 1 for numbers, n in zip(scene.stored, where, strict=True))
    assert result.disagreement[at] == scene.disagreement.max()
    world = scene.affine @ [*where, 1]
    np.testing.assert_allclose(world, result.form.grid.affine @ [*at, 1])


def result_of(folder: Path, names: tuple[str, ...] = ("anna", "bob", "cleo"), case: str = "case", **reading):
    """A fused study as the report takes it."""
    from medseg.workflows.consensus.case import _fuse
    from medseg.workflows.consensus.collect_studies import Item

    image, drawn = write_study(folder)
    options = ConsensusOptions(folder, (image,), tuple(drawn), method="majority", **reading)
    return _fuse(Item(case, (image,), tuple(drawn), names), options)


def test_the_viewer_carries_the_crop_in_8_bit_and_leaves_out_voxels_above_the_cap(tmp_path, monkeypatch):
    import base64
    import gzip

    import nibabel as nib

    result = result_of(tmp_path)
    scene = scenes.scene_of(result)

    def layers() -> list:
        return json.loads(make_viewer(result, scene).data)["layers"]

    def volume(layer) -> nib.Nifti1Image:
        return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layer["file"])))

    assert [layer["name"] for layer in layers()] == ["image", "consensus", "anna", "bob", "cleo"]
    image, labels, *_, cleo = map(volume, layers())
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(labels.dataobj, scene.consensus)
    np.testing.assert_allclose(labels.affine, scene.affine)
    assert set(np.unique(cleo.dataobj)) == {0, 1}  # what is missing is not shown
    monkeypatch.setattr(viewer_module, "MOST_VOXELS", scene.consensus.size // 8)
    assert volume(layers()[1]).shape == tuple(-(-n // 2) for n in scene.consensus.shape)
    assert "every second voxel" in make_viewer(result, scene).data


def scene_with(disagreement: np.ndarray, spacing_mm: tuple[float, ...] = (1, 1, 1)) -> scenes.Scene:
    """Nothing but where raters disagree."""
    empty = np.zeros(disagreement.shape, np.uint8)
    numbers = tuple(np.arange(1, n + 1) for n in disagreement.shape)
    image = np.broadcast_to(np.arange(disagreement.shape[0])[:, None, None], disagreement.shape)[None]
    return scenes.Scene(
        image, (empty, empty), empty, 1 - disagreement, disagreement, spacing_mm, np.eye(4), numbers, False
    )


def test_a_slice_is_enlarged_round_its_densest_disagreement():
    disagreement = np.zeros((160, 128, 1))
    disagreement[100:104, 20:24] = 0.5
    disagreement[0, 127] = 1.0
    scene = scene_with(disagreement)
    view = scenes.choose_view(scene)
    closer = scenes.enlarge(scene, view, 0)
    assert closer.consensus.shape == closer.raters[0].shape == (40, 32, 1)
    assert closer.disagreement.sum() == 8  # all of the block, and not the corner
    assert closer.image[0, :, 0, 0].tolist() == list(range(closer.image[0, 0, 0, 0], closer.image[0, 0, 0, 0] + 40))
    assert scenes.enlarge(scene_with(disagreement[:, :127]), view, 0) is None  # too small


def test_worst_slices_are_no_neighbours_and_cut_across_the_thickest_voxels():
    disagreement = np.zeros((10, 10, 10))
    disagreement[:, 4, 0] = disagreement[:, 5, 0] = disagreement[:8, 8, 0] = 0.5
    scene = scene_with(disagreement, (1, 3, 1))
    view = scenes.choose_view(scene)
    assert view.name == "coronal"
    assert scenes.find_worst_slices(scene, view) == [4, 8]
    assert scenes.choose_view(scene_with(disagreement)).name == "axial"


def test_unanimous_empty_and_flat_studies_have_a_report_too(tmp_path):
    same = [save(tmp_path / f"{n}.nii.gz", ball()) for n in "ab"]
    image = save(tmp_path / "image.nii.gz", image_of(ball()))
    consensus(ConsensusOptions(tmp_path / "same", [image], same))
    text = (tmp_path / "same" / "report.html").read_text()
    assert "nowhere contradict" in text
    assert "Where they disagree most" not in text
    empty = save(tmp_path / "e.nii.gz", np.zeros((24, 20, 12), np.uint8))
    consensus(ConsensusOptions(tmp_path / "empty", [image], [empty]))
    assert "structures: none" in (tmp_path / "empty" / "report.html").read_text()
    truth = ball((160, 140, 1), radius=30)[..., 0]
    drawn = [save(tmp_path / "c.png", truth), save(tmp_path / "d.png", np.roll(truth, 5, 0))]
    eye = save(tmp_path / "eye.png", (truth[..., None] * [90, 60, 30]).astype(np.uint8))
    consensus(ConsensusOptions(tmp_path / "eye", [eye], drawn))
    text = (tmp_path / "eye" / "report.html").read_text()
    assert "pixels" in text
    assert "viewer-data" not in text
    assert "on the left" not in text


def test_the_words_follow_the_numbers():
    def words(weight=0.5, kappa=0.9, region=1.0, **row) -> str:
        return describe_rater({"weight": weight, "kappa": kappa, **row}, [0.5, 0.3, 0.2], region)

    assert words() == "counts most; the outlines follow the image very consistently."
    assert "counts least" in words(weight=0.2)
    assert "only loosely" in words(kappa=0.3)
    assert "little to do" in words(kappa=0.0)
    assert "annotated 40% of the region" in words(region=0.4)
    assert "found nothing" in words(empty=True)
    assert "image" not in words(kappa=None)
    assert all(describe_method(name) for name in FUSERS)

    def of_weights(*weights: float) -> str:
        return describe_rater({"weight": weights[0], "kappa": None}, weights, 1.0)

    assert of_weights(0.503, 0.497) == "counts like the others."
    assert of_weights(0.3, 0.299, 0.25, 0.151) == "is one of 2 who count most."
    assert of_weights(0.25, 0.3, 0.299, 0.151) == "counts in between."
    assert of_weights(0.01, 0.3, 0.3, 0.39) == "hardly counts."


def test_places_that_cannot_be_written_and_settings_are_told(tmp_path):
    result = result_of(tmp_path)
    assert ("settings", "majority, tie background") in inputs(result)
    assert write_page(tmp_path / "p.html", result, viewer=False).stat().st_size < 1e6


def test_names_are_escaped_and_every_value_is_needed(tmp_path, monkeypatch):
    names = tuple(f"{NASTY_NAME}{n}" for n in ("anna", "bob", "cleo"))
    result = result_of(tmp_path, names, f"{NASTY_NAME}case", label=(f"1={NASTY_NAME}liver",))
    report = result.report
    report["warnings"].append(f"{NASTY_NAME}warning")
    report["raters"][0]["self_consistency"] = 0.5
    report["versions"][f"{NASTY_NAME}library"] = "1"
    report["inputs"]["image"] = [f"{NASTY_NAME}scan"]
    failed = {"method": f"{NASTY_NAME}method", "error": f"{NASTY_NAME}error"}
    report["comparison"] = [failed]
    given = {}

    def render(template, **data):
        given.update(data)
        return render_page(template, **data)

    monkeypatch.setattr(consensus_page, "render_page", render)
    page = Page(consensus_page.render_report(result))
    places = ("anna", "bob", "cleo", "case", "liver", "warning", "library 1", "method", "error")
    assert [place for place in places if not shown(page, f"{NASTY_NAME}{place}")] == []
    assert shown(page, "{{ 7 * 7 }}{% endblock %}scan")
    assert page.tags.count("script") == 3
    assert "alert" not in page.attributes
    for name in given:
        if name != "structure_rows":  # there is one structure
            with pytest.raises(UndefinedError):
                render_page("consensus.html", **{key: value for key, value in given.items() if key != name})


def test_nothing_ends_the_scripts_of_the_page():
    for text in ("</script>", "</SCRIPT >", "<!-- <script>"):
        assert not re.search("</script|<!--", viewer_module._inert(json.dumps(text)), re.IGNORECASE)
        assert json.loads(viewer_module._inert(json.dumps(text))) == text
    own = (resources.files("medseg.workflows.reports") / "templates" / "viewer.js").read_text(encoding="utf-8")
    assert not re.search("</script|<!--", own, re.IGNORECASE)


# ---- in a browser


def browse(page: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Headless, without a network, with a graphics card of software."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", *arguments, page,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def console(done: subprocess.CompletedProcess) -> list[str]:
    """What the page told the console, but for NiiVue's greetings."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line and "niivue-info" not in line]


needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")


@needs_browser
def test_the_viewer_starts_offline_without_errors(report, tmp_path):
    software = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    done = browse(f"file://{report}#viewer", tmp_path, *software, "--virtual-time-budget=60000", "--dump-dom")
    assert not console(done)
    assert 'data-state="ready"' in done.stdout
    assert done.stdout.count('type="checkbox"') == 4


@needs_browser
def test_without_webgl_the_figures_remain_and_it_prints(report, tmp_path):
    done = browse(f"file://{report}#viewer", tmp_path, "--disable-gpu", "--disable-3d-apis", "--dump-dom")
    assert not console(done)
    assert 'data-state="no-webgl"' in done.stdout
    assert 'src="data:image/png;base64,' in done.stdout
    pdf = tmp_path / "report.pdf"
    browse(f"file://{report}", tmp_path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.stat().st_size > 50_000
