"""Estimates how many tokens a model makes of a prompt, and learns from the numbers that Ollama reports. Pure."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from operator import mul, sub

import msgspec

from relay.window.text_counts import FEATURES, TextCounts

FEATURE_NAMES = [feature.name for feature in FEATURES]
DEFAULTS = [feature.tokens for feature in FEATURES]
LEAST = [feature.least for feature in FEATURES]
MOST = [feature.most for feature in FEATURES]

WEIGHT_RANGE = (1 / 16, 8.0)
"""How far a weight may be from its default, as factors."""
PRIOR_DEVIATION = 0.8
"""Standard deviation of a weight before anything is learned, as a share of its default."""
NOISE_SHARE = 0.02
"""Standard deviation of a prompt's tokens from what the best weights say, as a share of them: texts differ."""
NOISE_TOKENS = 20.0
"""The same, in tokens: a template may begin with a system message of its own."""
FORGETTING = 0.02
"""How much of what is known is forgotten with each observation: new texts count for more than old ones."""
SURPRISE_LIMIT = 3.0
"""A number counts as at most so many standard deviations away: a wrong one does limited harm."""
MAX_TEMPLATE_TOKENS = 512
"""Tokens that a template adds to a prompt at most, beside those around its messages."""
RECENT_PROMPTS = 8
"""Prompts that are kept, to recognize those that begin with one of them."""
GROWTH_SHARE = 0.5
"""What is added to a prompt has at least this share of its estimate."""

DEFAULT_PICTURE = 768.0
"""Tokens of a picture: 256 in Gemma 3 and 576 in LLaVA 1.5, 1,000 and more in models that look at its full size."""
PICTURE_RANGE = (1.0, 16_384.0)
PICTURE_CERTAINTY = 0.25
"""A picture's tokens are learned where the deviation of the text's estimate is at most this share of them."""
PICTURE_GAIN = 0.3
"""How far each prompt with pictures moves the tokens of a picture towards its own."""

MAX_MODELS = 256
"""Models whose estimators are kept."""


class _State(msgspec.Struct):
    """What an estimator has learned."""

    features: list[str]
    weights: list[float]
    covariance: list[list[float]]
    picture: float

    @property
    def is_complete(self) -> bool:
        count = len(self.features)
        return len(self.weights) == len(self.covariance) == count and all(len(row) == count for row in self.covariance)


class TokenEstimator:
    """Estimates the tokens of prompts of one model: a weight for each feature, the same for all texts.

    It learns by recursive least squares (a Kalman filter whose state is the weights), starting from weights that fit
    most tokenizers. All weights are positive and bounded: more text never has fewer tokens.
    """

    def __init__(self) -> None:
        self._weights = list(DEFAULTS)
        self._picture = DEFAULT_PICTURE
        # Covariance of the weights, in tokens squared.
        self._covariance = [
            [_prior_variance(row) if row == column else 0.0 for column in range(len(DEFAULTS))]
            for row in range(len(DEFAULTS))
        ]
        self._recent: deque[tuple[tuple[int, ...], int]] = deque(maxlen=RECENT_PROMPTS)

    def estimate(self, counts: TextCounts) -> int:
        """Estimate the tokens of a prompt or a part of one; the estimates of parts add up, but for their rounding."""
        return round(_dot(self._weights, counts.features) + self._picture * counts.pictures)

    def learn(self, counts: TextCounts, tokens: int) -> None:
        """Learn from the number of tokens of a whole prompt, unless it cannot be right.

        :param counts: exactly what was sent.
        :param tokens: ``prompt_eval_count``, or the exact number that an error of Ollama tells.
        """
        if self._is_too_small(counts, tokens):
            return
        if counts.pictures:
            self._learn_picture(counts, tokens)
        elif tokens <= _dot(MOST, counts.features) + MAX_TEMPLATE_TOKENS:
            self._recent.append((counts.features, tokens))
            self._learn_text(counts.features, tokens)

    def state(self) -> str:
        """Return what was learned, as JSON."""
        state = _State(FEATURE_NAMES, self._weights, self._covariance, self._picture)
        return msgspec.json.encode(state).decode()

    def restore(self, state: str) -> None:
        """Continue with what was learned elsewhere, unless it is of other features, as of another version's.

        :param state: see :meth:`state`.
        """
        try:
            learned = msgspec.json.decode(state, type=_State)
        except msgspec.MsgspecError:
            return
        if learned.features != FEATURE_NAMES or not learned.is_complete:
            return
        self._weights = list(map(_possible_weight, range(len(DEFAULTS)), learned.weights))
        self._covariance = learned.covariance
        self._picture = _within(learned.picture, *PICTURE_RANGE)

    def _is_too_small(self, counts: TextCounts, tokens: int) -> bool:
        """Return whether a number can only be that of the tokens that were not in the cache.

        Ollama before 0.2 and some versions of 0.30 report those (github.com/ollama/ollama, issues 2068 and 16414).
        Wrong numbers that were learned do not keep out the right ones for long: each is used for one refusal only.
        """
        if tokens < _dot(LEAST, counts.features):
            return True
        for recent in self._recent:
            rest = list(map(sub, counts.features, recent[0]))
            if min(rest) >= 0 and tokens < recent[1] + GROWTH_SHARE * _dot(self._weights, rest):
                # A conversation has grown, but not its tokens. If it is the older number that is wrong, or the
                # estimate, then the next number is not compared with it.
                self._recent.remove(recent)
                return True
        return False

    def _learn_text(self, features: Sequence[int], tokens: int) -> None:
        self._forget()
        spread, variance = self._spread(features)
        variance += (NOISE_SHARE * tokens) ** 2 + NOISE_TOKENS**2
        limit = SURPRISE_LIMIT * variance**0.5
        surprise = _within(tokens - _dot(self._weights, features), -limit, limit)
        for row, covariances in enumerate(self._covariance):
            gain = spread[row] / variance
            self._weights[row] = _possible_weight(row, self._weights[row] + gain * surprise)
            self._covariance[row] = [value - gain * column for value, column in zip(covariances, spread, strict=True)]

    def _forget(self) -> None:
        """Move the covariance towards what it was at first, which also keeps it bounded and positive definite."""
        for row, covariances in enumerate(self._covariance):
            self._covariance[row] = [(1 - FORGETTING) * value for value in covariances]
            self._covariance[row][row] += FORGETTING * _prior_variance(row)

    def _spread(self, features: Sequence[int]) -> tuple[list[float], float]:
        """Return the covariance of each weight with the estimate of a text, and the estimate's variance."""
        spread = [_dot(covariances, features) for covariances in self._covariance]
        return spread, max(_dot(spread, features), 0.0)

    def _learn_picture(self, counts: TextCounts, tokens: int) -> None:
        rest = tokens - _dot(self._weights, counts.features)
        _, variance = self._spread(counts.features)
        if rest > 0 and variance**0.5 <= PICTURE_CERTAINTY * rest:
            observed = _within(rest / counts.pictures, *PICTURE_RANGE)
            self._picture += PICTURE_GAIN * (observed - self._picture)


class TokenEstimators:
    """The estimators of all models, by name; those that were used last are kept."""

    def __init__(self) -> None:
        self._estimators: OrderedDict[str, TokenEstimator] = OrderedDict()

    def __contains__(self, model: str) -> bool:
        """Return whether there is an estimator of a model already."""
        return model in self._estimators

    def of(self, model: str) -> TokenEstimator:
        """Return the estimator of a model."""
        if model not in self._estimators:
            self._estimators[model] = TokenEstimator()
        self._estimators.move_to_end(model)
        if len(self._estimators) > MAX_MODELS:
            self._estimators.popitem(last=False)
        return self._estimators[model]


def _possible_weight(row: int, weight: float) -> float:
    lowest, highest = WEIGHT_RANGE
    return _within(weight, lowest * DEFAULTS[row], highest * DEFAULTS[row])


def _prior_variance(row: int) -> float:
    return (PRIOR_DEVIATION * DEFAULTS[row]) ** 2


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return float(sum(map(mul, first, second)))


def _within(value: float, lowest: float, highest: float) -> float:
    return max(lowest, min(value, highest))
