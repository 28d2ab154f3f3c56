"""All contenders, in the order of the table."""

import dataclasses

from bench.peers import PEERS, RUST
from bench.servers.chatterd import chatterd

CHATTERD = chatterd("chatterd", "chatterd")

WITHOUT_LOG = dataclasses.replace(
    chatterd("without-log", "chatterd without its log", program=("-m", "bench.without_log")), durable=False
)

REFERENCE = RUST
"""The contender that ratios are relative to."""

CONTENDERS = [CHATTERD, WITHOUT_LOG, *PEERS]
