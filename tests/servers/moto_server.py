"""moto's server on a free port of 127.0.0.1, which it writes to the file that it
is given the path of."""

import os
import sys
import threading

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
port = server.get_host_and_port()[1]
with open(sys.argv[1] + ".part", "w") as file:
    file.write(f"{port}\n")
os.rename(sys.argv[1] + ".part", sys.argv[1])
threading.Event().wait()
