"""Cost of rendering a long reply, counted as work instead of time: characters parsed, nodes changed, frames used.

The test controls frames and time: ``requestAnimationFrame`` collects callbacks, and ``performance.now`` is set.
"""

from typing import Any

import pytest
from playwright.sync_api import Page

STAGE = """async () => {
    window.stage = { frames: [], now: 0, parsed: [], step: 0 };
    window.requestAnimationFrame = (callback) => stage.frames.push(callback);
    window.cancelAnimationFrame = (number) => (stage.frames[number - 1] = () => {});
    performance.now = () => stage.now;
    const { markdownWorker } = await import("/static/chat/markdown/markdown_worker.js");
    const schedule = markdownWorker.schedule;
    markdownWorker.schedule = (client) => {
        stage.job ??= new Promise((resolve) => (stage.endJob = resolve));
        schedule.call(markdownWorker, client);
    };
    stage.frame = async () => { // and what the worker renders in it
        stage.now += stage.step;
        for (const callback of stage.frames.splice(0)) callback(stage.now);
        await stage.job;
        stage.job = null;
    };
    const parse = DOMParser.prototype.parseFromString;
    DOMParser.prototype.parseFromString = function (html, type) {
        stage.parsed.push(String(html).length);
        return parse.call(this, html, type);
    };
    const { StreamingMarkdown } = await import("/static/chat/markdown/streaming_markdown.js");
    stage.root = document.createElement("div");
    document.querySelector("main").append(stage.root);
    stage.text = new StreamingMarkdown(stage.root);
    const render = stage.text.render;
    stage.text.render = async (answer) => {
        const hasMore = await render.call(stage.text, { ...answer, duration: 0 });
        stage.endJob();
        return hasMore;
    };
    stage.perFrame = async (text, size, look = () => {}) => {
        const work = [];
        for (let at = 0; at < text.length; at += size) {
            stage.text.append(text.slice(at, at + size));
            stage.parsed.length = 0;
            const blocks = [...stage.root.children];
            await stage.frame();
            work.push(stage.parsed.reduce((sum, one) => sum + one, 0));
            look(blocks);
        }
        return work;
    };
}"""

PARAGRAPH = "Some **bold** words and `code`, and [a link](https://a.example) in a paragraph like many others. " * 3
SECTION = f"""## A title

{PARAGRAPH}

- one *item*
- another

| a | b |
|---|---|
| 1 | 2 |

```py
def function(x):
    return x
```

"""


def run(page: Page, script: str, argument: Any = None) -> Any:
    """Run a script with the controlled frames."""
    page.evaluate(STAGE)
    return page.evaluate(script, argument)


def test_a_frame_renders_only_the_open_block(page: Page) -> None:
    text = SECTION * (20_000 // len(SECTION) + 1)
    found = run(
        page,
        """async (text) => {
            const changed = [];
            const observer = new MutationObserver(() => {});
            observer.observe(stage.root, { subtree: true, childList: true, characterData: true, attributes: true });
            const work = await stage.perFrame(text, 50, (before) => {
                const finished = before.slice(0, -1);
                for (const { target } of observer.takeRecords())
                    if (finished.some((block) => block.contains(target))) changed.push(target.textContent);
                finished.forEach((block, place) => stage.root.children[place] === block || changed.push("moved"));
            });
            stage.text.flush();
            await stage.text.whenRendered();
            return { work, changed, blocks: stage.root.children.length, text: stage.text.text };
        }""",
        text,
    )
    assert len(text) >= 20_000 and found["text"] == text
    assert found["blocks"] == 5 * text.count("## ")
    assert found["changed"] == []
    assert max(found["work"]) < 4 * len(SECTION)
    assert sum(found["work"][-100:]) < 2 * sum(found["work"][:100]), "the cost does not grow with the length"


@pytest.mark.extended
def test_appended_text_is_rendered_once_per_frame(page: Page) -> None:
    found = run(
        page,
        """async () => {
            for (let count = 0; count < 1000; count += 1) stage.text.append("word ");
            const [asked, before] = [stage.frames.length, stage.parsed.length];
            await stage.frame();
            return [asked, before, stage.parsed.length, stage.root.textContent.trim().length];
        }""",
    )
    assert found == [1, 0, 1, 4999]


@pytest.mark.extended
def test_slow_rendering_is_throttled(page: Page) -> None:
    shown = run(
        page,
        """async () => {
            stage.step = 16;
            const parse = DOMParser.prototype.parseFromString;
            DOMParser.prototype.parseFromString = function (...args) {
                stage.now += 50; // a slow machine
                return parse.apply(this, args);
            };
            return (await stage.perFrame("word ".repeat(100), 5)).filter((work) => work > 0).length;
        }""",
    )
    assert 5 <= shown <= 15, "50 ms of work, then a pause of 150 ms: every tenth frame"


def test_a_long_code_block_is_not_parsed_as_html(page: Page) -> None:
    found = run(
        page,
        """async (text) => {
            const work = await stage.perFrame(text, 100);
            return [Math.max(...work), stage.root.querySelectorAll("pre").length, stage.root.textContent.length];
        }""",
        "```text\n" + "a line of code\n" * 3_400,
    )
    assert found[0] == 0 and found[1] == 1 and found[2] > 50_000


@pytest.mark.extended
def test_many_blocks_are_rendered_over_several_frames(page: Page) -> None:
    counts = run(
        page,
        """async (text) => {
            stage.text.append(text);
            const counts = [];
            while (stage.frames.length) {
                await stage.frame();
                counts.push(stage.root.children.length);
            }
            return counts;
        }""",
        f"{PARAGRAPH}\n\n" * 300,
    )
    assert counts[-1] == 300 and len(counts) > 3
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) < 100
