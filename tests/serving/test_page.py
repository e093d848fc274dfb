"""The page of a server, in a real browser."""

import json
import re
import shutil
import time

import httpx
import pytest

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ALONE = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)


@pytest.fixture(scope="module")
def browser():
    """A browser without a window, or a skip."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ALONE)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page of the browser, whose scripts must not fail."""
    page = browser.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(error))
    yield page
    page.close()
    assert not complaints


def written(page, **fields):
    """What the answers' cards say once the models have written."""
    page.wait_for_selector("#write:enabled")
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))
    page.click("#write")
    page.wait_for_selector("#write:enabled", timeout=60_000)
    return page.locator(".answer .text").all_inner_texts()


def test_two_models_write_side_by_side_what_the_server_says(page, url):
    """With every control of the page in the request, and nothing asked of others."""
    asked = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(url)
    told = {
        "prompt": "It is <b>a truth</b> & so",
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 12,
        "seed": 5,
    }
    texts = written(page, **told)
    body = {"model": "packaged", "logprobs": 5, **told}
    (wanted,) = httpx.post(f"{url}/v1/completions", json=body).json()["choices"]
    # The model beside it has the same weights.
    assert texts == [told["prompt"] + wanted["text"]] * 2
    figures = page.locator(".answer .figures").first.inner_text()
    assert figures.startswith("12 tokens · first after ")
    assert "tokens/s" in figures
    assert all(each.startswith((f"{url}/", "data:")) for each in asked)

    page.hover(".token >> nth=3")
    chances = page.locator("#chances").inner_text()
    likeliest = wanted["logprobs"]["top_logprobs"][3]
    for token in likeliest:
        assert token.replace(" ", "\u2423").replace("\n", "\\n") in chances
    assert page.locator("#chances .taken").count() == 1


def test_0_asks_for_all_tokens(page, url):
    """Left out, `top_k` is 50; the command that is copied must ask for the same."""
    page.goto(url)
    told = {"prompt": "It is", "temperature": 2, "top_k": 0, "max_tokens": 12}
    texts = written(page, **told)
    body = {"model": "packaged", "seed": 0, **told}
    (wanted,) = httpx.post(f"{url}/v1/completions", json=body).json()["choices"]
    assert texts == [told["prompt"] + wanted["text"]] * 2
    page.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; }")
    page.click("#copy")
    copied = page.evaluate("window.copied")
    assert json.loads(copied.partition(" -d ")[2].strip("'"))["top_k"] == 0
    # As on other machines over plain HTTP.
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    shown = []

    def accept(dialog):
        shown.append(dialog.default_value)
        dialog.accept()

    page.on("dialog", accept)
    page.click("#copy")
    assert shown == [copied]


def test_a_stream_that_breaks_off_is_no_end(page, url):
    """Half an answer must not look like a whole one."""
    choice = {"index": 0, "text": "Half", "logprobs": None, "finish_reason": None}
    event = f"data: {json.dumps({'choices': [choice]})}\n\n"
    page.route(
        "**/v1/completions",
        lambda route: route.fulfill(body=event, content_type="text/event-stream"),
    )
    page.goto(url)
    texts = written(page, prompt="")
    assert texts == ["Half"] * 2
    for figures in page.locator(".answer .figures").all_inner_texts():
        assert figures.endswith("broken off")


def test_a_stop_ends_both_and_frees_their_slots(page, url, models, monkeypatch):
    """Else the server would go on for nobody."""
    for name in ("packaged", "chat"):
        slots = models[name].scheduler._slots
        monkeypatch.setattr(slots, "step", _slowed(slots.step))
    page.goto(url)
    page.wait_for_selector("#write:enabled")
    page.fill("#max_tokens", "40")
    page.click("#write")
    page.wait_for_selector(".token")
    page.keyboard.press("Escape")
    page.wait_for_selector("#write:enabled")
    for figures in page.locator(".answer .figures").all_inner_texts():
        assert figures.endswith("stopped")
        assert int(re.match(r"(\d+) tokens?", figures).group(1)) < 40
    for _ in range(50):
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        used = [line for line in lines if line.startswith("gptjax_slots_in_use")]
        if all(float(line.split()[-1]) == 0 for line in used):
            break
        page.wait_for_timeout(100)
    else:
        raise AssertionError(used)


def _slowed(step):
    def slowly():
        time.sleep(0.1)
        return step()

    return slowly


def test_refusals_are_shown(page, url):
    """More tokens than the server grants; a model that knows no chats."""
    page.goto(url)
    written(page, max_tokens=41)
    assert "40" in page.locator(".refused").first.inner_text()
    page.check("#chat")
    written(page, max_tokens=4)
    assert page.locator(".refused").count() == 1
    assert "chat" in page.locator(".refused").inner_text()


def test_a_key_is_asked_for_where_there_is_one(page, models, serve):
    """The page is open, what it asks of the server is not."""
    page.goto(serve({"packaged": models["packaged"]}, api_key="secret"))
    page.wait_for_selector("#key:visible")
    page.fill("#key", "secret")
    page.press("#key", "Tab")
    (text,) = written(page, max_tokens=3, prompt="Mr.")
    assert text.startswith("Mr.")
