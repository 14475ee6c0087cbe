"""stage1_convert with every library at DEBUG, logging and raising secrets on purpose."""

import logging
import os
import sys
import threading
from collections.abc import Sequence
from urllib.parse import quote, unquote

from common.cli.command import run, set_up_logging
from stage1_convert import __main__ as stage1
from stage1_convert.sources import azure_client


def main(argv: Sequence[str] | None) -> int:
    """Convert, log the secret in several spellings, fail in a thread, and with CRASH in the environment fail here, too.

    TIMEOUT_S in the environment is the timeout of a request.
    """
    set_up_logging(logging.DEBUG)
    for name in ("azure", "urllib3", "msal"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    azure_client.TIMEOUT_S = float(os.environ.get("TIMEOUT_S", "30"))
    azure_client.BACKOFF_S = azure_client.BACKOFF_BASE = 0
    secret = os.environ.get("AZURE_STORAGE_SAS_TOKEN") or os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    logging.getLogger("ours").debug("the secret is %s or %s", secret, quote(secret))
    try:
        return stage1.main(argv)
    finally:
        thread = threading.Thread(target=_fail, args=(secret,))
        thread.start()
        thread.join()
        if os.environ.get("CRASH"):
            raise RuntimeError(f"{secret} {unquote(secret)}")


def _fail(secret: str) -> None:
    try:
        raise KeyError(secret)
    except KeyError as error:
        raise ZeroDivisionError(quote(secret)) from error


if __name__ == "__main__":
    sys.argv[0] = "stage1_convert"
    run(main)
