"""The report in headless Chromium: three widths, light and dark, print, keyboard, contrast, no request, no error."""

import base64
import itertools
import os
import shutil

import pytest
from pypdfium2 import PdfDocument
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ABSENT = not os.environ.get("CI_BROWSER") and (BROWSER is None or DRIVER is None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(ABSENT, reason="chromium and chromium-driver are not installed")]

CONTRAST = """
const luminance = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return 'rgb(255, 255, 255)';
};
const drawn = (node) => node.matches('svg *') ? getComputedStyle(node).fill : getComputedStyle(node).color;
const texts = 'p, dt, dd, li, td, th, h1, h2, h3, figcaption, a, summary, svg text';
return [...document.querySelectorAll(texts)].map((node) => {
  const [a, b] = [luminance(drawn(node)), luminance(ground(node))].sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), node.tagName + ': ' + node.textContent.trim().slice(0, 40)];
}).sort((x, y) => x[0] - y[0])[0];
"""
# Pixels of every text inside a plot, as scaled to the page.
TEXT_SIZES = """
return [...document.querySelectorAll('figure [role=img] svg')].flatMap((svg) => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return [...svg.querySelectorAll('text')].map((node) => scale * parseFloat(getComputedStyle(node).fontSize));
});
"""
# Tables, lists and plots of which a part lies beside the window or is hidden in a box that must be scrolled.
CUT_OFF = """
for (const each of document.querySelectorAll('details')) each.open = true;
return [...document.querySelectorAll('table, td, dl, dd, ul, figure, code, p')].filter((node) => {
  const inline = getComputedStyle(node).display == 'inline';
  return node.getBoundingClientRect().right > innerWidth + 0.5 || !inline && node.scrollWidth > node.clientWidth + 1;
}).map((node) => node.tagName + ': ' + node.textContent.trim().slice(0, 60));
"""
OLD_LEGEND = """
const legend = '<text style="font-size: 9px">spent</text>';
document.querySelector('figure [role=img] svg').insertAdjacentHTML('beforeend', legend);
"""
EMPTIEST = 0.55  # of a printed page that is not the last


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def look(browser, directory, width=1200, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(directory.report.as_uri())


@pytest.mark.parametrize("width", [390, 820, 1400])
@pytest.mark.parametrize("name", ["private", "open"])
def test_nothing_sticks_out_at_any_width_and_every_plot_is_seen(browser, runs, name, width):
    look(browser, runs[name], width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    plots = browser.find_elements(By.CSS_SELECTOR, "figure [role=img] svg")
    assert len(plots) == (7 if name == "private" else 5)
    for plot in plots:
        assert 200 < plot.size["width"] <= width
        assert plot.size["height"] > 90
    assert min(browser.execute_script(TEXT_SIZES)) >= 11
    assert browser.execute_script(CUT_OFF) == []


def test_no_request_leaves_the_page_and_no_error_is_logged(browser, runs):
    browser.get_log("browser"), browser.get_log("performance")
    look(browser, runs["private"])
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    outside = [each for each in requests if '"url":"file:' not in each and '"url":"data:' not in each]
    assert outside == []
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, runs, scheme):
    look(browser, runs["private"], scheme=scheme)
    worst, where = browser.execute_script(CONTRAST)
    assert worst >= 4.5, where
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_legend_in_a_colour_of_its_own_would_be_found(browser, runs):
    """The positive control: legends once were black, in the dark, too, and shrank with their plots."""
    look(browser, runs["private"], 390, scheme="dark")
    browser.execute_script(OLD_LEGEND)
    worst, where = browser.execute_script(CONTRAST)
    assert worst < 1.5
    assert where == "text: spent"
    assert min(browser.execute_script(TEXT_SIZES)) < 11


def test_the_page_is_read_in_order_by_those_who_do_not_see_it(browser, runs):
    look(browser, runs["private"])
    levels = [int(h.tag_name[1]) for h in browser.find_elements(By.CSS_SELECTOR, "h1, h2, h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert browser.execute_script("return document.documentElement.lang") == "en"
    for figure in browser.find_elements(By.CSS_SELECTOR, "figure [role=img]"):
        for attribute in ("aria-labelledby", "aria-describedby"):
            assert browser.find_element(By.ID, figure.get_attribute(attribute)).text


def test_everything_can_be_reached_with_the_keyboard(browser, runs):
    look(browser, runs["private"])
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the summary"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#summary")
    summary = browser.find_element(By.TAG_NAME, "summary")
    summary.send_keys(Keys.ENTER)
    assert browser.find_element(By.TAG_NAME, "details").get_attribute("open") is not None


def test_it_is_drawn_in_two_seconds(browser, runs):
    look(browser, runs["private"])
    script = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime"
    assert 0 < browser.execute_script(script) < 2000


@pytest.mark.parametrize("name", ["private", "open"])
def test_it_prints_on_few_pages_and_none_is_half_empty(browser, runs, name):
    look(browser, runs[name], scheme="dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    with PdfDocument(base64.b64decode(printed["data"])) as paper:
        pages = [page.render(scale=0.5).to_pil().convert("L") for page in paper]
    assert 3 <= len(pages) <= 9
    for number, image in enumerate(pages, 1):
        assert image.getpixel((1, 1)) == 255, "paper is white, whatever the screen was"
        *_, lowest = image.point(lambda shade: 255 * (shade < 200)).getbbox()
        assert number == len(pages) or lowest / image.height > EMPTIEST, (
            f"page {number} ends at {lowest / image.height:.0%}"
        )
