"""
A node of its own for the transcripts: `python node_process.py DATA`.

Prints the port that it took, and stops at SIGTERM. The transcripts start it as a process, and
know no more of Sandglass than its port.
"""

import asyncio
import signal
import sys
from pathlib import Path

from sandglass.node import Node, NodeConfig


async def main() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    node = Node(NodeConfig(data=Path(sys.argv[1]), grpc_port=0))
    await node.start()
    print(node.grpc_port, flush=True)
    await stopped.wait()
    await node.stop()


asyncio.run(main())
