"""The live state of jobs in Redis: shards, leases, wake-ups, progress; and which workers are up.

Every change is one call of `ledger.lua`, which is atomic and safe to repeat. The destination, not the ledger, records
which shards have been made: a ledger that is lost can be rebuilt from the destinations.

call        the connection to Redis and the one call of the script
jobs        what clients and schedulers see: jobs are added, read, cancelled, deleted
shards      what a worker sees of a job: wake-ups, claims, leases, commits, the end
workers     the list of workers that are up
repair      restores the invariants after Redis has lost something or a process has died
ledger.lua  all changes, and what each key holds
"""

from pipeline.common.settings import load_settings
from pipeline.jobs.ledger.jobs import Jobs, NewJob, Order, QueueOptions
from pipeline.jobs.ledger.repair import Repair
from pipeline.jobs.ledger.shards import Claim, Renewal, Shards
from pipeline.jobs.ledger.workers import WORKER_TTL_S, Workers

__all__ = [
    "WORKER_TTL_S", "Claim", "Jobs", "Ledger", "NewJob", "Order", "QueueOptions", "Renewal", "Repair", "Shards",
    "Workers", "open_ledger",
]  # fmt: skip


class Ledger(Repair, Shards, Workers):
    """The ledger behind one Redis URL, as a process sees it that does everything. Safe to share between threads.

    Every method raises LedgerError if Redis cannot be reached or refuses a command.
    """


def open_ledger(redis_url: str | None) -> Ledger:
    """The ledger at `redis_url`, else at that of the environment, after a ping. Raises LedgerError."""
    ledger = Ledger(load_settings(redis_url=redis_url))
    ledger.ping()
    return ledger
