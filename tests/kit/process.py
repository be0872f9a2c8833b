"""Processes that tests start."""

import subprocess

import psutil


def resident(server):
    """Resident bytes of the server's process, told by the port it listens on.

    Only of this process's children: macOS does not tell an ordinary user whose the other ports are.
    """
    port = int(server.rsplit(":", 1)[1])
    (process,) = {
        process
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    return process.memory_info().rss


def kill_tree(process: subprocess.Popen):
    """Kills a process and all that it started."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in tree:
        each.kill()
    psutil.wait_procs(tree)
