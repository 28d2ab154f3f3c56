"""Measures how long a key waits in the chat page while it renders a reply. It is no test, and is run by its name::

.venv/bin/python -m pytest -q -s tests/browser/typing_delay.py
"""

import json

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chat_page import prompt_input, send_prompt
from tests.browser.test_hostile_replies import LARGE
from tests.browser.test_pathological_text import PATHOLOGICAL
from tests.fakes.ollama import Head, Lines, Pause, ScriptedOllama, Step, last_line, line

ORDINARY = """## Title

Some **bold** words and `code`, a [link](http://a.example).

- one
- two

```python
for x in range(3):
    print(x)
```

"""

TEXTS = {"ordinary": ORDINARY * 40} | PATHOLOGICAL | LARGE

PIECES = 40
"""Lines in which a reply is streamed, 20 a second."""

KEYS = "typing while a reply is streamed and rendered " * 3
"""Typed at 33 keys a second."""

WATCH = """() => {
    window.delays = [];
    document.addEventListener("keydown", (event) => delays.push(performance.now() - event.timeStamp), true);
}"""


@pytest.mark.parametrize("name", TEXTS)
def test_delay_of_keys(page: Page, ollama: ScriptedOllama, name: str) -> None:
    text = TEXTS[name]
    size = -(-len(text) // PIECES)
    steps: list[Step] = []
    for start in range(0, len(text), size):
        steps += [Lines(line(text[start : start + size])), Pause(0.05)]
    ollama.script(Head(), *steps, Lines(last_line()))
    page.evaluate(WATCH)
    send_prompt(page, "Continue")
    prompt_input(page).press_sequentially(KEYS, delay=30)
    expect(page.locator(".streaming")).to_have_count(0, timeout=60_000)
    delays = sorted(json.loads(page.evaluate("JSON.stringify(delays)")))
    print(
        f"\n{name}: 95 % of {len(delays)} keys within {delays[len(delays) * 95 // 100]:.0f} ms, all {delays[-1]:.0f} ms"
    )
