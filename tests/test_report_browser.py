"""The page about runs in a real browser, at the widths of a desk and of a phone: nothing overflows, everything is drawn, no script runs."""

import html
import json
import re
import shutil
import subprocess

from matplotlib import image
import numpy as np
import pytest
from report_runs import HOSTILE, evaluate, write

from jaxalign import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars"
).split()
WIDTHS = {"desk": 1280, "phone": 390}
SCHEMES = {"desk": "light", "phone": "dark"}
PAPER = {"light": "rgb(251, 251, 250)", "dark": "rgb(20, 23, 27)"}  # of the style, as --paper
DOTS = {"light": {0x2166C2, 0xD1590F}, "dark": {0x6AA8FF, 0xFF9A57}}  # likewise --c0 and --c1, the colours of two configurations
HEIGHT, PROMPTS = 2400, 8
SIZE = f"--window-size={sum(WIDTHS.values())},{HEIGHT}"
LONG = "word" * 50  # without a place to break
MEASURE = """
const found = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, boxes = (css) => [...page.querySelectorAll(css)].map((one) => one.getBoundingClientRect());
  found[frame.id] = {
    title: page.title, across: page.documentElement.scrollWidth, down: page.documentElement.scrollHeight,
    charts: boxes("section > .panels svg").map((box) => box.width), letters: boxes("section > .panels svg text").map((box) => box.height),
    bars: boxes(".intervals .bar").map((box) => box.width), paper: getComputedStyle(page.body).backgroundColor,
    unfolded: page.querySelectorAll("details[open]").length, sections: boxes("section").map((box) => box.height),
  };
}
document.body.innerHTML = "<pre id=found></pre>";
document.getElementById("found").textContent = JSON.stringify(found);
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs chromium")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The file of a page with every section, of names and texts that are long or hostile."""
    folder = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(("sft", "dpo_with_a_name_that_is_rather_long_for_a_telephone")):
        for seed in range(2):
            run = folder / f"{name}_{seed}"
            accuracies = [0.5, 0.6 + number / 10, 0.7 + number / 10 + seed / 100]
            lines = [{"step": 3 * i, "accuracy": accuracy, "loss": 0.6, "kl": i / 10} for i, accuracy in enumerate(accuracies)]
            follow = {"prompt": LONG, "responses": [{"what": "chosen", "text": LONG, "before": -12.5, "after": -9.25}]}
            write(run, lines=lines, seed=seed, objective=f"{name}, beta 0.{number}", reference=LONG, samples=[follow])
            rewards = [number + seed / 10 + i / PROMPTS for i in range(PROMPTS)]
            evaluate(
                run, rewards, step=6, text=f"{LONG} {HOSTILE}", prompts=[HOSTILE] * PROMPTS, against=("chosen", [0.5] * PROMPTS), kl=number
            )
    assert report.main([*map(str, sorted(folder.iterdir())), "--out", str(folder / "page.html")]) == 0
    return folder / "page.html"


def browse(url, folder, *flags):
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, url.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def framed(page, folder, script=""):
    """A page that shows the page in a frame of each width, side by side; the script may look into them."""
    content = html.escape(page.read_text(encoding="utf-8"))
    styles = {name: f"border:0;height:{HEIGHT}px;width:{width}px;color-scheme:{SCHEMES[name]}" for name, width in WIDTHS.items()}
    frames = "".join(f'<iframe id="{name}" srcdoc="{content}" style="{style}"></iframe>' for name, style in styles.items())
    body = f'<body style="margin:0;white-space:nowrap;font-size:0" onload="{html.escape(script)}">{frames}'
    (folder / "frames.html").write_text(f'<!DOCTYPE html><meta charset="utf-8">{body}')
    return folder / "frames.html"


@pytest.fixture(scope="module")
def measured(page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    document = browse(framed(page, folder, MEASURE), folder, "--dump-dom", SIZE)
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*)</pre>', document, re.DOTALL)[1]))


@pytest.mark.parametrize("name", WIDTHS)
def test_the_page_fits_its_width_and_draws_everything(measured, name):
    one = measured[name]
    assert one["across"] <= WIDTHS[name]
    assert one["down"] > HEIGHT / 2 and min(one["sections"]) > 50
    assert one["paper"] == PAPER[SCHEMES[name]]  # the style applies under the page's own policy
    assert len(one["charts"]) > 5 and min(one["charts"]) > 250 and min(one["letters"]) > 9  # CSS pixels: legible
    assert len(one["bars"]) == 6 and min(one["bars"]) > 1
    assert one["unfolded"] == 0


@pytest.mark.parametrize("name", WIDTHS)
def test_no_script_of_a_text_runs(measured, name):
    assert measured[name]["title"] == "dpo_with_a_name_that_is_rather_long_for_a_telephone and sft"


@pytest.fixture(scope="module")
def screenshot(page, tmp_path_factory):
    """A picture of both frames, uint8[HEIGHT, width, 3]."""
    folder = tmp_path_factory.mktemp("screenshot")
    browse(framed(page, folder), folder, SIZE, f"--screenshot={folder / 'frames.png'}")
    return (image.imread(folder / "frames.png")[:HEIGHT, :, :3] * 255).round().astype(np.uint8)


@pytest.mark.parametrize("name", WIDTHS)
def test_the_screenshot_is_a_page(screenshot, name):
    pixels = screenshot[:, : WIDTHS[name]] if name == "desk" else screenshot[:, -WIDTHS[name] :]
    colours, counts = np.unique(pixels.astype(np.int32) @ (65536, 256, 1), return_counts=True)
    assert len(colours) > 200
    assert 0.02 < 1 - counts.max() / counts.sum() < 0.7  # it is neither blank nor covered by something
    assert DOTS[SCHEMES[name]] <= set(colours.tolist())  # both configurations are drawn
