"""The chat page in a real browser, and what the server says with it."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.browser import Browser, browsing
from support.llava_models import picture
from support.serving import PATIENCE, Served, about, data_url, running

from switchkd.runtime.server.chat_page import chat_page

pytestmark = pytest.mark.long
REFUSED = "Failed to load resource: the server responded with a status of"  # a browser's line for any such answer


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        browser.look(1200)
        yield browser


@pytest.fixture
def page(shared_server, browser):
    with opened(browser, shared_server):
        yield browser


@contextmanager
def opened(browser: Browser, served: Served) -> Iterator[None]:
    """The page, newly opened; whatever a test does there, it says nothing to the console and asks nobody else."""
    browser.events.clear()
    browser.open(home(served))
    browser.wait("document.querySelector('#first').options.length")
    yield
    assert [line for line in browser.errors() if not line.startswith(REFUSED)] == []
    assert {url for url in browser.asked() if not url.startswith((home(served), "data:image/"))} == set()


@pytest.fixture(scope="module")
def pair(shared_engine, other_engine):
    """A server of two models."""
    with running(shared_engine, other_engine) as served:
        yield served


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    picture(3).save(path)
    return path


def home(served: Served) -> str:
    return served.url.removesuffix("v1")


def ask(browser: Browser, text: str) -> None:
    """Types a question where the focus is and sends it."""
    browser.write(text)
    browser.press("Enter")


def answers(browser: Browser, count: int) -> list[dict[str, str]]:
    """What stands in the page when so many answers have ended."""
    browser.wait(f"document.querySelectorAll('.answer[aria-busy=false]').length === {count}")
    shown = """[...document.querySelectorAll('.answer')].map((answer) => Object.fromEntries(
        ['h2', '.text', '.figures', '.wrong'].map((part) => [part, answer.querySelector(part)?.textContent])))"""
    return browser.run(shown)


def show(browser: Browser, path: Path) -> None:
    browser.choose_file("#file", path)
    browser.wait("document.querySelector('#picture').naturalWidth > 0")


def test_the_page_names_no_other_place():
    """Nor may it: whatever stood in it, a browser would load nothing but what its own script asks of this server."""
    folder = Path(__file__).parents[3] / "runtime" / "server" / "page"
    files = list(folder.iterdir())
    assert len(files) > 3
    for path in files:
        assert not re.search(r"(?<!:)//(?! )|https?:|@import|url\(", path.read_text()), path


def test_the_page_is_one_document_that_only_this_server_may_serve(shared_server):
    with urllib.request.urlopen(home(shared_server), timeout=PATIENCE) as response:
        text, headers = response.read().decode(), response.headers
    assert headers.get_content_type() == "text/html"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert set(re.findall(r"<(?:script|link|style)[^>]*>", text)) == {
        '<link rel="icon" href="data:,">',
        "<style>",
        '<script type="module">',
    }


def test_no_page(shared_engine):
    assert chat_page().path == "/"
    with running(shared_engine, page=False) as served, pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(home(served), timeout=PATIENCE)


def test_a_picture_and_questions_about_it(shared_server, page, scene):
    """Answers are the API's to the same conversation."""
    show(page, scene)
    ask(page, "how many cars ?")
    first = about(data_url(3), "how many cars ?")
    expected = shared_server.ask(first)
    (answer,) = answers(page, 1)
    assert answer["h2"] == shared_server.app.model
    assert answer[".text"] == expected.choices[0].message.content != ""
    usage = expected.usage
    assert re.fullmatch(
        r"(waited [\d.]+\sm?s · )?picture [\d.]+\sms · first token [\d.]+\sms · \d+ tokens a second · "
        rf"{usage.prompt_tokens} tokens read, {usage.completion_tokens} said · cut at the longest answer",
        answer[".figures"],
    ), answer
    ask(page, "is it red ?")
    followed = [
        *first,
        {"role": "assistant", "content": answer[".text"]},
        {"role": "user", "content": "is it red ?"},
    ]
    again = shared_server.ask(followed).choices[0].message.content
    assert [each[".text"] for each in answers(page, 2)] == [answer[".text"], again]
    assert again != shared_server.ask(followed[-1:]).choices[0].message.content


def talk_of_two(served: Served, browser: Browser, scene: Path) -> list[dict]:
    """Shows the picture twice, each time with a question; the conversation up to the second one."""
    for text in ("how many cars ?", "and here ?"):
        show(browser, scene)
        ask(browser, text)
        browser.wait("document.querySelector('.answer[aria-busy=false]')")
    said = {"role": "assistant", "content": answers(browser, 2)[0][".text"]}
    return [*about(data_url(3)), said, *about(data_url(3), "and here ?")]


def test_a_second_picture_goes_with_the_next_message(shared_server, page, scene):
    two = talk_of_two(shared_server, page, scene)
    assert answers(page, 2)[1][".text"] == shared_server.ask(two).choices[0].message.content


def test_a_refusal_is_shown_in_the_servers_words(shared_engine, browser, scene):
    """Where one picture more is refused, the question may begin a conversation."""
    with running(shared_engine, pictures=1) as served, opened(browser, served):
        two = talk_of_two(served, browser, scene)
        with pytest.raises(Exception, match="has 2 pictures; this server takes 1") as refused:
            served.ask(two)
        assert answers(browser, 2)[1][".wrong"] == refused.value.response.json()["error"]["message"]
        assert browser.run("document.querySelector('#question').value") == "and here ?"  # to be changed and asked again
        browser.run("document.querySelector('.answer button').click()")
        (alone,) = answers(browser, 1)
        assert alone[".text"] == served.ask(about(data_url(3), "and here ?")).choices[0].message.content
        assert (
            browser.run("document.querySelector('#question').value + document.querySelector('#preview').hidden")
            == "true"
        )


def test_what_is_no_picture(shared_server, page, tmp_path):
    """Its name alone says what a file is: the page tells what it can tell, the server the rest."""
    text, torn, large = (tmp_path / name for name in ("words.txt", "torn.png", "large.png"))
    text.write_text("words")
    torn.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    page.choose_file("#file", text)
    page.wait("!document.querySelector('#notice').hidden")
    assert page.run("document.querySelector('#notice').textContent") == "words.txt isn't a picture."
    page.choose_file("#file", torn)
    page.wait("!document.querySelector('#preview').hidden")
    ask(page, "what is it ?")
    (answer,) = answers(page, 1)
    assert "picture" in answer[".wrong"] and answer[".text"] == ""
    large.write_bytes(torn.read_bytes() + bytes(1_000_000))
    page.choose_file("#file", large)
    page.wait("document.querySelector('#preview').textContent.includes('large')")
    page.press("Enter")  # the question has come back
    assert answers(page, 2)[1][".wrong"] == "The request is larger than 0.2 MB."
    assert ["422" in page.errors()[0], "413" in page.errors()[1]] == [True, True]


def test_escape_stops_and_what_was_said_stays(shared_server, page, gate):
    """Tokens are shown as they come; the conversation goes on after them."""
    gate.allow(4)
    ask(page, "is it red ?")
    page.wait("document.querySelector('.answer .text').textContent")
    partly = page.run("document.querySelector('.answer .text').textContent")
    assert page.run("document.querySelector('.answer').ariaBusy") == "true"
    page.press("Escape")
    (stopped,) = answers(page, 1)
    assert stopped[".text"].startswith(partly) and stopped[".figures"].startswith("stopped · measured in the page")
    gate.allow()
    ask(page, "and now ?")
    history = [
        {"role": "user", "content": "is it red ?"},
        {"role": "assistant", "content": stopped[".text"]},
        {"role": "user", "content": "and now ?"},
    ]
    assert answers(page, 2)[1][".text"] == shared_server.ask(history).choices[0].message.content


def test_two_models_beside_each_other(pair, other_engine, browser, scene):
    """Both are asked the same, each goes on with its own answers; on a phone they stand below each other."""
    names = [pair.app.model, other_engine.name]
    histories: list[list[dict]] = [[], []]
    with opened(browser, pair):
        assert browser.run("[...document.querySelector('#second').options].map((each) => each.value)") == ["", *names]
        browser.run(f"document.querySelector('#second').value = {json.dumps(names[1])}")
        show(browser, scene)
        for turn, question in enumerate(
            [about(data_url(3), "how many cars ?"), *[[{"role": "user", "content": "why ?"}]]]
        ):
            ask(browser, "why ?" if turn else "how many cars ?")
            shown = answers(browser, 2 * turn + 2)[-2:]
            assert [each["h2"] for each in shown] == names
            for name, history, each in zip(names, histories, shown, strict=True):
                history += question
                expected = pair.client.chat.completions.create(model=name, messages=history).choices[0].message.content
                assert each[".text"] == expected
                history.append({"role": "assistant", "content": expected})
        assert histories[0] != histories[1]
        places = "[...document.querySelectorAll('.answer')].slice(0, 2).map((each) => each.getBoundingClientRect())"
        places = f"(([a, b]) => [a.left < b.left, a.top < b.top])({places})"
        assert browser.run(places) == [True, False]
        browser.look(375)
        assert browser.run(places) == [False, True]
        assert browser.run("document.documentElement.scrollWidth") == 375
        browser.look(1200)


def test_everything_by_the_keyboard(pair, browser, scene):
    """Each control is reached by Tab, has a name and shows that it has the focus; Shift+Enter begins a line."""
    with opened(browser, pair):
        by_the_keyboard(browser, scene)


def by_the_keyboard(page: Browser, scene: Path) -> None:
    focused = """(() => { const it = document.activeElement; return it === document.body ? null : [
        it.id, it.labels?.[0]?.textContent.trim() || it.textContent, getComputedStyle(it).outlineStyle]; })()"""
    show(page, scene)
    page.write("is it")
    page.press("Enter", shift=True)
    page.write("red ?")
    reached = []
    for _ in range(12):
        reached.append(page.run(focused))
        page.press("Tab")
    reached = [each for each in reached if each]
    assert {each[0] for each in reached} == {"first", "second", "anew", "remove", "question", "choose", "camera", "ask"}
    assert all(name and outline != "none" for _, name, outline in reached)
    for control, key in (("second", "ArrowDown"), ("ask", " ")):
        while page.run("document.activeElement.id") != control:
            page.press("Tab")
        if control == "second":
            page.press(key)
        page.press(key)
    answers(page, 2)  # of both models
    assert page.run("document.querySelector('.question p').textContent") == "is it\nred ?"


def test_the_camera(shared_engine, browser):
    sizes = dict.fromkeys(("request_bytes", "picture_bytes", "picture_pixels"), 10_000_000)
    with running(shared_engine, **sizes) as served, opened(browser, served):
        browser.run("document.querySelector('#camera').click()")
        browser.wait("document.querySelector('#video').videoWidth && !document.querySelector('#video').paused")
        browser.run("track = document.querySelector('#video').srcObject.getTracks()[0], 0")
        browser.press("Enter")  # the button that takes it has the focus
        browser.wait("document.querySelector('#picture').naturalWidth")
        browser.wait("track.readyState === 'ended'")  # the camera is off
        url = browser.run("document.querySelector('#picture').src")
        ask(browser, "what is it ?")
        (answer,) = answers(browser, 1)
        assert answer[".text"] == served.ask(about(url, "what is it ?")).choices[0].message.content


def test_a_dropped_picture(page):
    page.run(f"""(async () => {{
        const data = new DataTransfer();
        const bytes = Uint8Array.from(atob({json.dumps(data_url(5))}.split(',')[1]), (each) => each.charCodeAt(0));
        data.items.add(new File([bytes], 'dropped.png', {{type: 'image/png'}}));
        document.body.dispatchEvent(new DragEvent('drop', {{dataTransfer: data, bubbles: true, cancelable: true}}));
    }})()""")
    page.wait("document.querySelector('#picture').naturalWidth > 0")
    assert page.run("document.querySelector('#picture').src") == data_url(5)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone(page, scene, dark):
    """Nothing is wider than the window, and words are told from their ground (WCAG's contrast of 4.5)."""
    page.look(375, dark=dark)
    try:
        show(page, scene)
        ask(page, "wide? " + "w" * 300)
        answers(page, 1)
        assert page.run("document.documentElement.scrollWidth") == 375
        contrast = """((selector) => {
            const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
            const light = (colour) => numbers(colour).slice(0, 3).map((each) => each / 255)
                .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
                .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
            let ground = document.querySelector(selector);
            const words = light(getComputedStyle(ground).color);
            while (numbers(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
            const pair = [words, light(getComputedStyle(ground).backgroundColor)].sort((a, b) => b - a);
            return (pair[0] + 0.05) / (pair[1] + 0.05);
        })"""
        for selector in (".question p", ".text", ".figures", ".answer h2", "#keys", "#ask", "#choose", "#notice"):
            assert page.run(f"{contrast}({json.dumps(selector)})") >= 4.5, selector
        dark_ground = page.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark_ground == dark
    finally:
        page.look(1200)
