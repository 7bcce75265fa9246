"""An attack one can touch: the trace behind it, the widgets of notebook 7, and the page that needs no kernel."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser

import interactive
import numpy as np
import pytest
from conftest import small_network

from ecgnb import EcgnbError, KerasClassifier, Threat, load_data, named_model, pgd
from ecgnb.attacks import Goal
from ecgnb.constants import CLASSES
from ecgnb.explore import Explorer, pgd_trace, verdict
from ecgnb.models.classifier import softmax

# --- the trace and the verdict ------------------------------------------------------------------


@pytest.mark.parametrize(
    "threat", [Threat(), Threat(target=""), Threat(epsilon=0), Threat(norm="L2", epsilon=3)], ids=str
)
def test_a_trace_ends_where_pgd_ends(threat, demo_dev):
    classifier = KerasClassifier(small_network())
    problem = threat.on(demo_dev.of_class("A").take([0]))
    trace, result = pgd_trace(classifier, problem, steps=7), pgd(classifier, problem, steps=7)
    assert trace.x.shape == (8, 9000, 1) and (trace.x[0] == problem.x[0]).all()
    assert (trace.x[-1] == result.x[0]).all()
    np.testing.assert_array_equal(trace.loss[:-1], result.loss[:, 0])
    np.testing.assert_allclose(trace.logits[-1], result.logits[0], atol=1e-5)
    assert all((problem.ball.size(x[None]) <= threat.epsilon).all() for x in trace.x)


def test_a_trace_takes_one_recording(demo_dev):
    with pytest.raises(EcgnbError, match="takes one recording, got 2"):
        pgd_trace(KerasClassifier(small_network()), Threat().on(demo_dev.take([0, 1])))


AF, NORMAL, OTHER = np.log(np.array([[0.97, 0.01, 0.01, 0.01], [0.1, 0.88, 0.01, 0.01], [0.1, 0.2, 0.69, 0.01]]))


@pytest.mark.parametrize(
    "target, clean, attacked, words",
    [
        (1, AF, NORMAL, "AF at 0.97 → normal at 0.88: the attack reaches its goal."),
        (None, AF, OTHER, "AF at 0.97 → other at 0.69: the attack reaches its goal."),
        (1, AF, OTHER, "AF at 0.97 → other at 0.69: the attack misses its goal, normal, yet the prediction is wrong."),
        (1, AF, AF + 0.5 * NORMAL, "AF at 1.00 → AF at 0.90: the attack does not reach its goal."),
        (1, AF, AF, "AF at 0.97: nothing is perturbed yet."),
        (
            1,
            NORMAL,
            OTHER,
            "normal at 0.88 → other at 0.69. The label is AF: the prediction is wrong before any attack.",
        ),
    ],
)
def test_a_verdict_says_what_happened(target, clean, attacked, words):
    said = verdict(Goal(target), 0, clean, attacked, CLASSES)
    assert re.sub(r"\d\.\d\d", "", said) == re.sub(r"\d\.\d\d", "", words)
    if attacked is not clean and "does not" not in words:
        assert said == words


# --- the widgets of notebook 7 ------------------------------------------------------------------


@pytest.fixture(scope="module")
def explorer(linear, demo_dev) -> Explorer:
    classifiers = {"linear": KerasClassifier(linear[0]), "small": KerasClassifier(small_network())}
    return Explorer(demo_dev, classifiers, steps=5)


def changes(explorer, control, value) -> set[str]:
    """What is seen to change when a control is set: "verdict", "picture"; "attack" if there was a new one."""
    before = {"verdict": explorer.words.value, "picture": explorer.pictures.value, "attack": id(explorer.trace)}
    kept = explorer.trace  # or its id could be given to the next
    getattr(explorer, control).value = value
    after = {"verdict": explorer.words.value, "picture": explorer.pictures.value, "attack": id(explorer.trace)}
    del kept
    return {key for key in before if before[key] != after[key]}


def test_each_control_changes_what_it_should(explorer):
    assert explorer.label.value == "A" and explorer.verdict.endswith("reaches its goal.")
    assert changes(explorer, "start", 3) == {"picture"}
    assert changes(explorer, "seconds", 6) == {"picture"}
    assert changes(explorer, "iteration", 2) == {"verdict", "picture"}
    assert changes(explorer, "play", 1) == {"verdict", "picture"} and explorer.iteration.value == 1
    assert changes(explorer, "epsilon", 0.05) == {"verdict", "picture", "attack"}
    assert explorer.iteration.value == 5  # a new attack is seen from its end
    assert changes(explorer, "epsilon", 0) == {"verdict", "picture", "attack"}
    assert explorer.verdict.endswith("nothing is perturbed yet.")
    assert changes(explorer, "epsilon", 0.2) == {"verdict", "picture", "attack"}
    assert changes(explorer, "steps", 8) == {"verdict", "picture", "attack"}
    assert explorer.iteration.max == explorer.play.max == len(explorer.trace.x) - 1 == 8
    assert changes(explorer, "goal", "O") == {"verdict", "picture", "attack"}
    assert changes(explorer, "model", "small") == {"verdict", "picture", "attack"}
    assert changes(explorer, "record", explorer.record.options[1]) == {"verdict", "picture", "attack"}


def test_a_class_brings_its_recordings_and_goals_in_one_attack(explorer, monkeypatch):
    attacks = []
    monkeypatch.setattr(explorer, "_run", lambda run=explorer._run: (attacks.append(explorer.record.value), run()))
    for symbol in "NOA":
        explorer.label.value = symbol
        assert set(explorer.record.options) == set(explorer.dataset.of_class(symbol).names)
        assert [goal for _, goal in explorer.goal.options] == [c for c in CLASSES if c != symbol] + [""]
        assert explorer.one.classes[explorer.one.y[0]] == symbol
    assert len(attacks) == 3


def test_every_picture_has_a_text_and_every_control_a_name(explorer):
    assert explorer.verdict in explorer.words.value and "'aria-live', 'polite'" in explorer.words.value
    alternatives = re.findall(r'<img [^>]*alt="([^"]+)"', explorer.pictures.value)
    assert len(alternatives) == 2 and explorer.record.value in alternatives[0]
    shown = softmax(explorer.trace.logits)[explorer.iteration.value]
    assert f"AF {softmax(explorer.trace.logits)[0, 0]:.2f}, under attack {shown[0]:.2f}" in alternatives[1]
    controls = explorer.box.children[0].children
    assert len(controls) == 10 and all(control.description and control.tooltip for control in controls)
    assert not any(getattr(control, "continuous_update", False) for control in controls)


def test_a_notebook_shows_widgets_and_keeps_a_picture(explorer):
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert bundle["text/plain"] == explorer.verdict


@pytest.mark.parametrize(
    "given, message",
    [
        ({"record": "A99999"}, "RECORD='A99999': not in DEMO"),
        ({"target": "Q"}, "target='Q': expected A or N or O or ~"),
        ({"epsilon": 0.5}, "EPSILON=0.5, MAX_ITER=20: expected 0 to 0.4"),
        ({"steps": 0}, "MAX_ITER=0: expected .* 1 to 40"),
    ],
)
def test_a_first_state_that_the_controls_do_not_have_is_named(given, message, linear, demo_dev):
    with pytest.raises(EcgnbError, match=message):
        Explorer(demo_dev, {"linear": KerasClassifier(linear[0])}, **given)


# --- the page -----------------------------------------------------------------------------------

GRID = (0.0, 0.02, 0.2)


@pytest.fixture(scope="module")
def demo_page(tmp_path_factory):
    """The page of the demo set, with one model and three ε: its path, and the data set and the model it shows."""
    model = named_model("baseline")
    shown = interactive.choose(load_data("validation", data="demo"), [model])
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(interactive.page(interactive.payload(shown, [model], GRID)), "utf-8")
    return path, shown, model


def data_of(path) -> dict:
    return json.loads(re.search(r"^const data = (.*);$", path.read_text("utf-8"), re.M).group(1))


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def test_the_numbers_on_the_page_are_those_of_the_signal_on_the_page(demo_page):
    path, shown, model = demo_page
    data = data_of(path)
    assert [r["class"] for r in data["recordings"]] == ["AF", "AF", "normal", "other"]
    for i, recording in enumerate(data["recordings"]):
        mv = unpacked(recording["signal"], "<i2") / data["units_per_mv"]
        for goal in recording["goals"]:
            found = goal["models"]["baseline"]
            steps = unpacked(found["steps"], "int8").reshape(len(GRID), -1)
            assert np.abs(steps).max() == 10  # of ε/10: inside the ball
            drawn = mv + steps * np.array(GRID)[:, None] / 10 * recording["sd_mv"]
            x = (drawn - shown.mean_mv[i]) / shown.sd_mv[i]
            expected = softmax(model.classifier.logits(x[..., None].astype(np.float32)))
            np.testing.assert_allclose(found["probabilities"], expected, atol=2e-3)
            assert "nothing is perturbed" in found["verdicts"][0]
    assert "reaches its goal" in data["recordings"][0]["goals"][0]["models"]["baseline"]["verdicts"][-1]


def test_the_page_fetches_nothing_and_is_small(demo_page):
    path, shown, _ = demo_page
    text = path.read_text("utf-8")
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(text.replace(re.search(r"<script>.*</script>", text, re.S).group(), ""))
    names = [tag for tag, _ in tags]
    assert names.count("title") == names.count("main") == names.count("h1") == 1
    assert all(not a.get("src") and a.get("href", "data:,") == "data:," for _, a in tags)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", text)
    labelled = {a["for"] for tag, a in tags if tag == "label"}
    assert labelled == {a["id"] for tag, a in tags if tag in ("select", "input")}
    assert "DEMO (SYNTHETIC)" in text and data_of(path)["synthetic"]
    perturbations = sum(len(interactive.GOALS[shown.classes[y]]) for y in shown.y) * len(interactive.EPSILONS[1:])
    each = len(data_of(path)["recordings"][0]["goals"][0]["models"]["baseline"]["steps"]) / len(GRID[1:])
    assert 100e3 < each * perturbations * len(interactive.MODELS) + 200e3 < 2e6


@pytest.mark.slow
def test_in_a_browser_the_slider_changes_the_verdict(demo_page, browser):
    page = browser.new_page(viewport={"width": 800, "height": 1200})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(demo_page[0].as_uri())
    page.wait_for_selector("svg")
    said = page.locator("#verdict")
    assert "nothing is perturbed" in said.inner_text()
    page.focus("#epsilon")
    page.keyboard.press("End")
    page.wait_for_function("document.getElementById('verdict').textContent.includes('reaches its goal')")
    assert page.locator("#epsilon-text").inner_text().startswith("0.20 z-units")
    assert page.locator("#epsilon").get_attribute("aria-valuetext").endswith("µV")
    assert said.inner_text() in page.locator("svg").get_attribute("aria-label")
    before = page.locator("svg").inner_html()
    page.focus("#start")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('svg').innerHTML !== before", arg=before)
    page.select_option("#recording", index=2)
    page.wait_for_function("document.querySelector('#goal').options[0].text === 'predicted as AF'")
    page.click("#play")
    page.wait_for_function("document.getElementById('verdict').getAttribute('aria-live') === 'off'")
    page.wait_for_function("document.getElementById('epsilon').value === '2'")
    page.wait_for_function("document.getElementById('verdict').getAttribute('aria-live') === 'polite'")
    for width in (390, 800, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(
            "document.querySelector('svg').clientWidth <= document.getElementById('paper').clientWidth"
        )
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    assert errors == [] and [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()
