"""The process of a server."""

import psutil


def resident(server):
    """Resident bytes of the server's process, told by the port it listens on."""
    port = int(server.rsplit(":", 1)[1])
    (process,) = {
        psutil.Process(connection.pid)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    return process.memory_info().rss
