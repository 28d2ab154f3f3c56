"""Load the settings from the command line and the environment, and say in one sentence which value is wrong."""

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tornado.log import define_logging_options
from tornado.options import Error, OptionParser

from settings import Settings

FIELDS = {field.name: field for field in dataclasses.fields(Settings)}

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

BASE_PATH = re.compile(r"(?!\.)[\w.~-]+(/(?!\.)[\w.~-]+)*", re.ASCII)
"""``--base-path`` without slashes at its ends: unreserved characters (RFC 3986, section 2.3), no segment ``..``."""

LOG_LEVELS = ("debug", "info", "warning", "error", "none")
"""Values of Tornado's option ``--logging``."""


def load_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Load the settings, and configure Tornado's logging options. ``--help`` prints the settings and exits.

    An empty environment variable counts as unset.

    :param arguments: command line without the program's name.
    :raises tornado.options.Error: unknown option, or a value of the wrong type or out of its range.
    :raises OSError: the file of ``--log-file-prefix`` cannot be written.
    """
    parser = _create_parser()
    values = {}
    for field in FIELDS.values():
        env = field.metadata["env"]
        if env and environment.get(env):
            values[field.name] = _parse(field, environment[env], f"the environment variable {env}")
    logging_options = []
    arguments = ["--help" if argument == "-h" else argument for argument in arguments]
    for place, argument in enumerate(arguments):
        name, equals, text = argument.lstrip("-").partition("=")
        _check_known(parser, argument, name)
        if name.replace("-", "_") not in FIELDS:
            logging_options.append(argument)
            continue
        field = FIELDS[name.replace("-", "_")]
        if not equals and field.type is not bool:
            following = next((word for word in arguments[place + 1 : place + 2] if not word.startswith("-")), "...")
            raise Error(f"--{_spell(name)} requires a value after an equals sign: --{_spell(name)}={following}")
        values[field.name] = _parse(field, text if equals else "true", f"--{_spell(name)}")
    _configure_logging(parser, logging_options)
    return Settings(**values)


def _create_parser() -> OptionParser:
    """Return Tornado's parser, used for ``--help`` and for Tornado's own options."""
    parser = OptionParser()
    for field in FIELDS.values():
        env = field.metadata["env"]
        parser.define(
            _spell(field.name),
            default=field.default,
            type=type(field.default),
            help=field.metadata["help"] + (f" (environment: {env})" if env else ""),
            group="chatterd",
        )
    define_logging_options(parser)
    return parser


def _spell(name: str) -> str:
    return name.replace("_", "-")


def _check_known(parser: OptionParser, argument: str, name: str) -> None:
    """Check that an argument is an option, with the name of one.

    :raises tornado.options.Error: it is not; the message has the nearest name.
    """
    nearest = _nearest(name, parser)
    if not argument.startswith("-"):
        example = argument if name in parser and "=" in argument else "port=9000"
        raise Error(f"unexpected argument {argument!r}: write each setting as --name=value, such as --{example}")
    if name not in parser:
        raise Error(f"there is no setting --{name}" + (f" (did you mean --{nearest}?)" if nearest else ""))


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(_spell(name), [_spell(known) for known in names], n=1)), None)


def _parse(field: "dataclasses.Field[Any]", text: str, source: str) -> Any:
    """Convert a value to the type of its setting.

    :param source: where the value comes from, as the subject of the error's sentence.
    :raises tornado.options.Error: it is not of that type, or out of the setting's range.
    """
    if field.type is str:
        if not text and field.metadata["required"]:
            raise Error(f"{source} must not be empty")
        return _normalize(field.name, text, source)
    if field.type is bool:
        if text.strip().lower() not in BOOLEANS:
            raise Error(f"{source} must be true or false, not {text!r}")
        return BOOLEANS[text.strip().lower()]
    minimum, maximum = field.metadata["minimum"], field.metadata["maximum"]
    try:
        value = int(text) if field.type is int else float(text)
    except ValueError:
        value = None
    if value is None or not minimum <= value <= maximum:  # not so of NaN, either
        kind = "a whole number" if field.type is int else "a number of seconds"
        raise Error(f"{source} must be {kind} from {minimum:.15g} to {maximum:.15g}, not {text!r}")
    return value


def _normalize(name: str, text: str, source: str) -> str:
    """Return the text of a setting in the form that the program uses.

    :raises tornado.options.Error: ``--base-path`` is not a path.
    """
    if name == "address":
        return text.strip("[]")  # an IPv6 address as in a URL
    if name == "base_path" and (path := text.strip("/")):
        if not BASE_PATH.fullmatch(path):
            raise Error(
                f"{source} must be a path of letters, digits, '-', '.', '_' and '~', such as /chat, not {text!r}"
            )
        return f"/{path}"
    return "" if name == "base_path" else text


def _configure_logging(parser: OptionParser, arguments: Sequence[str]) -> None:
    """Let Tornado parse ``--help`` and its own options, and configure the log.

    :raises tornado.options.Error: one of them has a value that Tornado cannot use.
    :raises OSError: the log file cannot be written.
    """
    try:
        parser.parse_command_line(["", *arguments], final=False)
        if parser.logging.lower() not in LOG_LEVELS:
            raise Error(f"--logging must be one of {', '.join(LOG_LEVELS)}, not {parser.logging!r}")
        parser.run_parse_callbacks()
    except ValueError as error:  # raised by int(), which Tornado calls, and by the handlers of logging
        options = " ".join(arguments)
        raise Error(f"{options} cannot be used: {error}") from error
    except OSError as error:
        raise OSError(f"--log-file-prefix={parser.log_file_prefix} cannot be written: {error.strerror}") from error
