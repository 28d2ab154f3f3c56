"""What showing a long reply costs, counted in work rather than in time: characters parsed, nodes touched, frames used.

The frames are made by the test: ``requestAnimationFrame`` collects, and time stands still unless the test moves it.
"""

from typing import Any

from playwright.sync_api import Page

STAGE = """async () => {
    window.stage = { frames: [], now: 0, parsed: [], step: 0 };
    window.requestAnimationFrame = (callback) => stage.frames.push(callback);
    window.cancelAnimationFrame = (number) => (stage.frames[number - 1] = () => {});
    performance.now = () => stage.now;
    stage.frame = () => {
        stage.now += stage.step;
        for (const callback of stage.frames.splice(0)) callback(stage.now);
    };
    const parse = DOMParser.prototype.parseFromString;
    DOMParser.prototype.parseFromString = function (html, type) {
        stage.parsed.push(String(html).length);
        return parse.call(this, html, type);
    };
    const { GrowingMarkdown } = await import("/static/chat/markdown/streaming_markdown.js");
    stage.root = document.createElement("div");
    document.querySelector("main").append(stage.root);
    stage.text = new GrowingMarkdown(stage.root);
    stage.perFrame = (text, size, look = () => {}) => {
        const work = [];
        for (let at = 0; at < text.length; at += size) {
            stage.text.append(text.slice(at, at + size));
            stage.parsed.length = 0;
            const blocks = [...stage.root.children];
            stage.frame();
            work.push(stage.parsed.reduce((sum, one) => sum + one, 0));
            look(blocks);
        }
        return work;
    };
}"""

PARAGRAPH = "Some **bold** words and `code`, and [a link](https://a.example) in a paragraph like many others. " * 3
CHAPTER = f"""## A title

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
    """Run a script on the stage."""
    page.evaluate(STAGE)
    return page.evaluate(script, argument)


def test_fifty_thousand_characters_cost_each_frame_what_its_open_block_costs(page: Page) -> None:
    text = CHAPTER * (50_000 // len(CHAPTER) + 1)
    found = run(
        page,
        """(text) => {
            const touched = [];
            const observer = new MutationObserver(() => {});
            observer.observe(stage.root, { subtree: true, childList: true, characterData: true, attributes: true });
            const work = stage.perFrame(text, 50, (before) => {
                const finished = before.slice(0, -1);
                for (const { target } of observer.takeRecords())
                    if (finished.some((block) => block.contains(target))) touched.push(target.textContent);
                finished.forEach((block, place) => stage.root.children[place] === block || touched.push("moved"));
            });
            stage.text.flush();
            return { work, touched, blocks: stage.root.children.length, text: stage.text.text };
        }""",
        text,
    )
    assert len(text) >= 50_000 and found["text"] == text
    assert found["blocks"] == 5 * text.count("## ")
    assert found["touched"] == []
    assert max(found["work"]) < 4 * len(CHAPTER)
    assert sum(found["work"][-100:]) < 2 * sum(found["work"][:100]), "the end of a reply costs what its beginning costs"


def test_all_words_of_a_frame_are_shown_at_once(page: Page) -> None:
    found = run(
        page,
        """() => {
            for (let count = 0; count < 1000; count += 1) stage.text.append("word ");
            const [asked, before] = [stage.frames.length, stage.parsed.length];
            stage.frame();
            return [asked, before, stage.parsed.length, stage.root.textContent.trim().length];
        }""",
    )
    assert found == [1, 0, 1, 4999]


def test_a_block_that_is_slow_to_show_leaves_frames_to_the_page(page: Page) -> None:
    shown = run(
        page,
        """() => {
            stage.step = 16;
            const parse = DOMParser.prototype.parseFromString;
            DOMParser.prototype.parseFromString = function (...words) {
                stage.now += 50; // a slow machine
                return parse.apply(this, words);
            };
            return stage.perFrame("word ".repeat(100), 5).filter((work) => work > 0).length;
        }""",
    )
    assert 5 <= shown <= 15, "after 50 ms of work, 150 ms of rest: each tenth frame"


def test_a_long_block_of_code_is_never_parsed(page: Page) -> None:
    found = run(
        page,
        """(text) => {
            const work = stage.perFrame(text, 100);
            return [Math.max(...work), stage.root.querySelectorAll("pre").length, stage.root.textContent.length];
        }""",
        "```text\n" + "a line of code\n" * 3_400,
    )
    assert found[0] == 0 and found[1] == 1 and found[2] > 50_000


def test_many_blocks_at_once_are_shown_over_several_frames(page: Page) -> None:
    counts = run(
        page,
        """(text) => {
            stage.text.append(text);
            const counts = [];
            while (stage.frames.length) (stage.frame(), counts.push(stage.root.children.length));
            return counts;
        }""",
        f"{PARAGRAPH}\n\n" * 300,
    )
    assert counts[-1] == 300 and len(counts) > 3
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) < 100
