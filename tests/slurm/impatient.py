"""snakemake that asks every second for the state of its jobs: the plugin waits 10 seconds longer each time nothing ended.

Only the waiting differs; jobs start a snakemake of their own, which knows nothing of this.
"""

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

RemoteExecutor.sleep = lambda executor: asyncio.sleep(1)

if __name__ == "__main__":
    main()
