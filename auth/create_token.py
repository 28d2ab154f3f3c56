"""``python -m auth.create_token NAME --token-file=FILE``: create a bearer token for ``--auth=token`` and print it."""

import argparse
import sys
from pathlib import Path

from tornado.options import Error

from auth import token_file


def main(arguments: list[str] | None = None) -> None:
    """Create one token, append its hash to the token file, and print the token on standard output.

    Exits with status 1 and a sentence if the file is invalid, cannot be written or has a token of this name.
    """
    parser = argparse.ArgumentParser("python -m auth.create_token", description="Create a bearer token.")
    parser.add_argument("name", help="name of the token, unique in the file")
    parser.add_argument("--token-file", type=Path, required=True, help="file to append the token's hash to")
    parser.add_argument(
        "--tenant", default="", help="tenant whose conversations the token gives access to; default: NAME"
    )
    parser.add_argument("--operator", action="store_true", help="allow access to /status and /metrics")
    options = parser.parse_args(arguments)
    try:
        token = token_file.create_token(options.token_file, options.name, options.tenant, options.operator)
    except (Error, OSError) as error:
        sys.exit(f"create_token: {error}")
    print(token)
    print("The token is not stored and cannot be shown again; the file holds its hash.", file=sys.stderr)
    print("A running chatterd accepts it after SIGHUP.", file=sys.stderr)


if __name__ == "__main__":
    main()
