"""What /metrics says, for tests: each value by its name and labels."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """One answer, read by prometheus_client's parser."""

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.names.add(sample.name)
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self._values, key
                self._values[key] = sample.value

    def __getitem__(self, name: str) -> float:
        """The value of ``chatterd_<name>``, or of all its series together."""
        found = [value for (one, _), value in self._values.items() if one == f"chatterd_{name}"]
        assert found, f"there is no chatterd_{name}"
        return sum(found)

    def of(self, name: str, **labels: str) -> float:
        """The value of ``chatterd_<name>{<labels>}``; 0 if it is not there (yet)."""
        return self._values.get((f"chatterd_{name}", frozenset(labels.items())), 0.0)

    def series(self) -> int:
        """How many there are."""
        return len(self._values)


def scrape(url: str) -> Scraped:
    """Ask one process."""
    answer = httpx.get(f"{url}/metrics", trust_env=False, timeout=60)
    assert answer.status_code == 200
    return Scraped(answer.text)
