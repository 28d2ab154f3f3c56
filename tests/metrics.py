"""Read /metrics in tests: each value by its name and labels."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.client import NO_TLS


class Scraped:
    """A response, parsed by prometheus_client."""

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
        """Return the value of ``chatterd_<name>``, summed over all its series."""
        found = [value for (one, _), value in self._values.items() if one == f"chatterd_{name}"]
        assert found, f"there is no chatterd_{name}"
        return sum(found)

    def of(self, name: str, **labels: str) -> float:
        """Return the value of ``chatterd_<name>{<labels>}``; 0 if there is no such series yet."""
        return self._values.get((f"chatterd_{name}", frozenset(labels.items())), 0.0)

    def series(self) -> int:
        """Return the number of series."""
        return len(self._values)


def scrape(url: str) -> Scraped:
    """Scrape one process."""
    answer = httpx.get(f"{url}/metrics", trust_env=False, verify=NO_TLS, timeout=60)
    assert answer.status_code == 200
    return Scraped(answer.text)
