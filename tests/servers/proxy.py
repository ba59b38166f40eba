"""A TCP proxy that counts what passes, and can cut every connection."""

import selectors
import socket
import threading
from contextlib import suppress


class Proxy:
    """Forwards a free port to another one."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.received = self.sent = 0  # bytes from the server to its clients, and from them
        self.down = False
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection, and refuse new ones until `mend`."""
        self.down = True
        with self._guard:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.down = False

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.down:
                    client.close()
                else:
                    threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as server:
            with self._guard:
                self._open |= {client, server}
            with selectors.DefaultSelector() as ready:
                ready.register(client, selectors.EVENT_READ, server)
                ready.register(server, selectors.EVENT_READ, client)
                while True:
                    for key, _ in ready.select():
                        data = key.fileobj.recv(2**16)
                        if not data:
                            return
                        key.data.sendall(data)
                        with self._guard:
                            if key.fileobj is server:
                                self.received += len(data)
                            else:
                                self.sent += len(data)
