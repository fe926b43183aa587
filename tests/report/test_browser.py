"""The pages in headless Chromium, without a network: no error, every control does what it says, nothing overflows."""

import csv
import io
import shutil

import pytest

from gta.report.write import write_report
from tests.report.folders import AWKWARD, change, write_run
from tests.report.test_study_page import write_study

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of one run with awkward names, a wrong label and a copy; and that of two runs."""
    import numpy as np

    root = tmp_path_factory.mktemp("browser")
    one, two = write_run(root / "plain"), write_run(root / "guided", seed=1, accuracy=0.8)
    with np.load(one / "features.npz") as file:
        of = {name: values.copy() for name, values in file.items()}
    of["label"][3] = (of["label"][3] + 2) % 6
    for name in ("features", "tiny", "sha256"):
        of[name][0] = of[name][50]
    change(one, **of)
    study = write_report([write_study(root / "study", names=["plain", *AWKWARD])])
    return {
        "one": write_report([one], root / "one.html"),
        "two": write_report([one, two], root / "two.html"),
        "study": study,
    }


@pytest.fixture
def visit(browser, pages):
    """Opens a page and fails at the end if anything was logged, thrown or fetched."""
    problems, contexts = [], []

    def go(name, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: problems.append(r.url) if r.url.startswith(("http", "ws")) else None)
        page.goto(pages[name].as_uri() if name in pages else name)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not problems


def texts(page, selector):
    return page.locator(selector).all_text_contents()  # also of what is scrolled away


def test_the_gallery_filters_opens_and_goes_through(visit):
    page = visit("one")
    wrong = int(texts(page, "#tabs button")[0].split()[-1])
    assert 0 < wrong == page.locator("#gallery button").count() < 36
    assert all("✗" in text for text in texts(page, "#gallery button"))
    page.click("text=All 36")
    assert page.inner_text("#count") == "36 images"
    page.select_option("#by-label", "1")
    assert page.inner_text("#count") == "6 images"
    assert all(AWKWARD[1] in text for text in texts(page, "#gallery button"))
    page.select_option("#by-guess", "5")
    assert page.locator("#gallery button").count() < 6
    page.click("#reset")
    assert page.locator("#gallery button").count() == wrong
    page.locator("#gallery button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    at = page.evaluate("[...document.querySelectorAll('#gallery button')].indexOf(document.activeElement)")
    assert 3 < at < 12  # one to the right, one line down

    page.locator("#gallery button").first.click()
    assert page.locator("#one").is_visible()
    assert f"1 of {wrong}" in page.inner_text("#one-body")
    assert page.locator("#one .near img").count() == 3
    first = page.inner_text("#one .path")
    page.keyboard.press("ArrowRight")
    assert f"2 of {wrong}" in page.inner_text("#one-body")
    assert page.inner_text("#one .path") != first
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#one .path") == first
    page.wait_for_selector("#one canvas[data-painted]")
    looks = texts(page, "#one .tabs button")
    assert looks == ["photograph", "source looks at", "model looks at"]
    page.click("#one .tabs button >> nth=0")
    assert page.locator("#one canvas").is_hidden()
    page.select_option("#relabel", AWKWARD[0])
    page.keyboard.press("Escape")
    assert page.locator("#one").is_hidden()

    with page.expect_download() as download:
        page.click("#export")
    text = download.value.path().read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == wrong
    assert rows[0]["right_class"] == AWKWARD[0]
    assert {row["label"] for row in rows} <= set(AWKWARD)


def test_the_matrix_the_classes_and_the_warnings_open_their_images(visit):
    page = visit("one")
    cell = page.locator("#matrix .cell.miss").first
    says = cell.get_attribute("aria-label")
    cell.click()
    assert page.locator("#gallery button").count() == int(says.split(": ")[-1].split(" of ")[0])
    page.locator("#matrix .cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#matrix .cell.on").count() == 1
    assert page.inner_text("#matrix-says") == page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.locator(".classes .link").first.click()
    assert page.inner_text("#count") == "6 images"
    page.click(".warnings li:has-text('to check') button")
    assert page.locator("#gallery button").count() == 1
    assert "?" in page.text_content("#gallery button")
    page.click(".warnings li:has-text('in train too') button")
    assert page.locator("#gallery img").count() == 2
    page.locator("#gallery button").click()
    assert "Copies of it" in page.inner_text("#one-body")


def test_the_attention_explorer_follows_image_layer_head_epoch_and_drift(visit):
    page = visit("two")
    assert [t.split()[0] for t in texts(page, "#models figcaption")] == ["source", "plain", "guided"]
    assert page.locator("#grid button").count() == 3 * 3  # layers × (mean, heads)
    assert page.locator("#drift button").count() == 3 * 2
    view = "#models figure:nth-child(2) canvas"
    page.wait_for_selector(f"{view}[data-painted]")

    def pixels():
        page.wait_for_timeout(60)
        return page.eval_on_selector(view, "c => c.toDataURL()")

    seen = [pixels()]
    page.click("#grid button >> nth=1")
    assert page.inner_text("#place") == "layer 1, head 1"
    seen.append(pixels())
    page.click("#drift button >> nth=5")
    assert page.inner_text("#place") == "layer 3, head 2"
    seen.append(pixels())
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert page.inner_text("#place") == "layer 3, head 1"
    page.click("#strip button >> nth=1")
    seen.append(pixels())
    page.fill("#epoch", "0")
    assert page.inner_text("#epoch-says") == "1"
    seen.append(pixels())
    assert len(set(seen)) == len(seen)
    page.click("#strip button >> nth=3")
    assert page.locator("#epoch-label").is_hidden()  # only the first two were kept
    before = page.get_attribute("#models svg path", "d")
    page.uncheck("#outline")
    assert before
    assert not page.get_attribute("#models svg path", "d")
    page.fill("#strength", "20")
    assert page.eval_on_selector(view, "c => c.style.opacity") == "0.2"
    colour = page.eval_on_selector("#drift button", "b => b.style.background")
    page.click("#drift-of button >> nth=1")
    assert page.eval_on_selector("#drift button", "b => b.style.background") != colour


def test_a_method_of_a_study_opens_its_runs(visit):
    page = visit("study")
    assert not page.locator("details[open]").count()
    page.locator("a[data-opens]").nth(1).click()
    assert "gta report" in page.inner_text("details[open]")
    assert page.locator("details[open]").count() == 1


@pytest.mark.parametrize("name", ["one", "two", "study"])
def test_on_a_telephone_nothing_overflows_and_all_is_accessible_in_light_and_dark(visit, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for width, scheme in ((360, "light"), (1280, "dark")):
        page = visit(name, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if name != "study":
            page.wait_for_selector("#grid canvas[data-painted]")
        bright = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert bright == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 21, 26)")
        for opened in (False, True):
            if opened and name != "study":
                page.locator("#gallery button").first.click()
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = axe.Axe().run(page).response["violations"]
            serious = [v for v in found if v["impact"] in ("serious", "critical")]
            assert not serious, [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in serious]


def test_five_hundred_images_stay_small_and_fluid(visit, tmp_path):
    run = write_run(tmp_path / "run", {"train": 40, "test": 84}, accuracy=0.5, side=224)
    path = write_report([run], tmp_path / "large.html")
    assert path.stat().st_size < 5e6
    page = visit(path.as_uri())
    page.click("text=All 500")
    page.wait_for_function("document.querySelectorAll('#gallery button').length === 500")
    assert page.inner_text("#count") == "500 images"
